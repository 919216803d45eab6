// One layout simulated, and what it is limited by.

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/integers.h"
#include "base/statistics.h"
#include "plan/capabilities.h"
#include "search/search.h"
#include "sim/predict.h"

namespace rehearse {
namespace {

std::string share_of(const char* what, double share) {
  return fmt::format("{} {:.0f}%", what, 100 * share);
}

// "products 55%, bubble 12%, all-to-alls 5%": what most of the step goes to, most first.
std::string limits_of(const Scored& s, const CostSources& sources) {
  double all = sources.host;
  for (const auto& [kind, seconds] : sources.kinds) all += seconds;
  const double busy = 1 - s.bubble - s.exposed - s.exposed_shared - s.optimizer;
  std::vector<std::pair<double, const char*>> parts = {{s.bubble, "bubble"},
                                                       {s.exposed, "all-to-alls"},
                                                       {s.exposed_shared, "gathers"},
                                                       {s.optimizer, "step's end"}};
  if (all > 0) {
    double memory = 0;
    for (const auto& [kind, seconds] : sources.kinds) {
      if (kind == WorkKind::kProduct) {
        parts.emplace_back(busy * seconds / all, "products");
      } else if (kind == WorkKind::kAttention) {
        parts.emplace_back(busy * seconds / all, "attention");
      } else {
        memory += seconds;
      }
    }
    parts.emplace_back(busy * memory / all, "memory");
    parts.emplace_back(busy * sources.host / all, "launches");
  } else {
    parts.emplace_back(busy, "computation");
  }
  std::sort(
      parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string text;
  constexpr size_t kNamed = 3;
  for (size_t i = 0; i < kNamed; ++i) {
    if (parts[i].first < 0.005) break;
    text += fmt::format("{}{}", i > 0 ? ", " : "", share_of(parts[i].second, parts[i].first));
  }
  return text;
}

}  // namespace

double score_of(const Candidate& c, double step, Objective objective) {
  const double tokens = static_cast<double>(c.batch) * static_cast<double>(c.sequence);
  const auto gpus = static_cast<double>(c.gpus);
  switch (objective) {
    case Objective::kTime:
      return step / tokens;
    case Objective::kCost:
      return step / tokens * gpus;
    case Objective::kGpus:
      return gpus + std::min(0.999, step / tokens);
  }
  return 0;
}

double spread_of(const Calibration& calibration, const Plan& plan, const Prediction& p) {
  const Spread spread = spread_of(plan, calibration);
  const CostSources& s = p.sources;
  const double computing = 1 - p.summary.exposed_comm_fraction - p.summary.exposed_shared_fraction;
  double variance = spread.common * spread.common;
  if (!calibration.device) {
    // What was not measured: some of all calls, each off by itself.
    const auto calls = static_cast<double>(s.measured + s.interpolated + s.roofline);
    const auto told = static_cast<double>(s.interpolated + s.roofline);
    if (calls > 0) {
      const double off = spread.interpolated * computing * std::sqrt(told) / calls;
      variance += off * off;
    }
    return std::sqrt(variance);
  }
  const DeviceRules& rules = calibration.device->rules();
  double all = s.host;
  for (const auto& [piece, seconds] : s.pieces) all += seconds;
  if (all == 0) return std::sqrt(variance);
  const auto add = [&](double share, double error) { variance += share * share * error * error; };
  for (const auto& [piece, seconds] : s.pieces) {
    add(computing * seconds / all, rules.errors[static_cast<size_t>(piece.first)]);
  }
  add(computing * s.experts / all + p.summary.exposed_comm_fraction, rules.experts);
  add(computing * s.host / all, rules.host_error);
  return std::sqrt(variance);
}

namespace {

// Seconds of a step, means over ranks but for the step itself.
struct StepParts {
  double step = 0, bubble = 0, exposed = 0, exposed_shared = 0, waiting = 0, optimizer = 0;
  bool extrapolated = false;
};

StepParts parts_of(const Prediction& p) {
  const Summary& s = p.summary;
  const double step = s.step.seconds();
  return {.step = step,
          .bubble = s.bubble_fraction * step,
          .exposed = s.exposed_comm_fraction * step,
          .exposed_shared = s.exposed_shared_fraction * step,
          .waiting = s.exchange_wait_fraction * step,
          .optimizer = mean(s.ranks).optimizer.seconds()};
}

// Ops of a layout whose ranks do not fold, one of thousands that are not alike: some seconds.
constexpr int64_t kWorthwhileOps = 3'000'000;
struct TooLong {};

// A step of many micro-batches goes on as it did: from some number of them on each adds the same.
// Where a step would take long to simulate, two shorter ones tell it.
std::pair<Prediction, StepParts> simulate_step(const Plan& plan,
                                               const std::optional<Calibration>& calibration,
                                               int64_t most_ops) {
  const auto run = [&](int64_t micro_batches) {
    Plan some = plan;
    some.training.micro_batches = micro_batches;
    const Program program = build_program(some);
    const bool gpus = plan.cluster.of_gpus();
    SimulateOptions how{.keep = Keep::kSummary, .fold = gpus, .level_routes = gpus};
    how.progress = [&](int64_t ops) {
      if (ops > most_ops) throw TooLong();
    };
    return simulate(some, program, calibration, how);
  };
  const Layout& l = plan.layout;
  const Architecture& a = plan.model.architecture;
  const int64_t n = plan.training.micro_batches;
  const int64_t ops =
      n * (a.layers + a.mtp_depth) * (12 + (l.tp > 1 ? 12 : 0) + (l.zero_stage >= 2 ? 4 : 0));
  constexpr int64_t kLong = 400'000;
  const int64_t by = l.way() == Way::kRoundAgain ? l.pp : 2;
  const int64_t fewer = round_up(4 * l.pp, by) + (by == 2 ? n % 2 : 0);
  const int64_t more = fewer + round_up(2 * l.pp, by);
  if (!plan.cluster.of_gpus() || ops <= kLong || n <= more + more / 2) {
    Prediction p = run(n);
    const StepParts parts = parts_of(p);
    return {std::move(p), parts};
  }
  const StepParts first = parts_of(run(fewer));
  Prediction p = run(more);
  const StepParts second = parts_of(p);
  const double times = static_cast<double>(n - more) / static_cast<double>(more - fewer);
  const auto on = [&](double StepParts::*part) {
    return second.*part + times * (second.*part - first.*part);
  };
  return {std::move(p),
          {.step = on(&StepParts::step),
           .bubble = std::max(0.0, on(&StepParts::bubble)),
           .exposed = std::max(0.0, on(&StepParts::exposed)),
           .exposed_shared = std::max(0.0, on(&StepParts::exposed_shared)),
           .waiting = std::max(0.0, on(&StepParts::waiting)),
           .optimizer = second.optimizer,
           .extrapolated = true}};
}

}  // namespace

Screened screened_alone(const Plan& base,
                        const std::optional<Calibration>& calibration,
                        const Candidate& c,
                        Objective objective,
                        double imbalance) {
  Estimator estimator(base, calibration, imbalance);
  estimator.begin_block(c);
  const Estimate e = estimator.estimate(c);
  return {c, e, score_of(c, e.step, objective), score_of(c, e.bound, objective)};
}

std::optional<Scored> score_in_time(const Plan& base,
                                    const std::optional<Calibration>& calibration,
                                    const Screened& screened,
                                    Objective objective) {
  try {
    return score(base, calibration, screened, objective, kWorthwhileOps);
  } catch (const TooLong&) {
    return std::nullopt;
  }
}

Scored score(const Plan& base,
             const std::optional<Calibration>& calibration,
             const Screened& screened,
             Objective objective,
             int64_t most_ops) {
  const Plan plan = plan_of(base, screened.candidate);
  Scored s{.screened = screened};
  const auto [p, parts] = simulate_step(plan, calibration, most_ops);
  s.step = parts.step;
  s.score = score_of(screened.candidate, s.step, objective);
  s.bubble = parts.bubble / parts.step;
  s.exposed = parts.exposed / parts.step;
  s.exposed_shared = parts.exposed_shared / parts.step;
  s.waiting = parts.waiting / parts.step;
  s.optimizer = parts.optimizer / parts.step;
  s.extrapolated = parts.extrapolated;
  constexpr double kNinety = 1.645;
  const double spread = calibration ? spread_of(*calibration, plan, p) : 0;
  s.low = s.step * std::exp(-kNinety * spread);
  s.high = s.step * std::exp(kNinety * spread);
  s.limited_by = limits_of(s, p.sources);
  complete(base, s);
  return s;
}

void complete(const Plan& base, Scored& s) {
  const Plan plan = plan_of(base, s.screened.candidate);
  s.fullest = s.screened.estimate.fullest;
  s.memory = rank_memory(plan, s.fullest);
  s.fit = fit_of(s.memory.need(), plan.cluster.memory);
  try {
    require_train(plan, trained_on(plan));
    s.runnable = true;
  } catch (const InputError& e) {
    s.not_runnable = e.what();
  }
}

}  // namespace rehearse
