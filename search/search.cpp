#include "search/search.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <map>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/integers.h"
#include "base/random.h"
#include "base/statistics.h"
#include "plan/capabilities.h"
#include "sim/predict.h"

namespace rehearse {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Runs `work(i)` for each thread, and throws what one of them threw.
void on_threads(int32_t threads, const std::function<void(int32_t)>& work) {
  std::vector<std::exception_ptr> failed(static_cast<size_t>(threads));
  {
    std::vector<std::jthread> running;
    for (int32_t i = 0; i < threads; ++i) {
      running.emplace_back([&, i] {
        try {
          work(i);
        } catch (...) {
          failed[static_cast<size_t>(i)] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& e : failed) {
    if (e) std::rethrow_exception(e);
  }
}

double tokens_of(const Candidate& c) {
  return static_cast<double>(c.batch) * static_cast<double>(c.sequence);
}

bool better(const Screened& a, const Screened& b) {
  return a.score < b.score;
}

// The best so many, in no order.
class Best {
 public:
  explicit Best(size_t most) : most_(most) {}
  bool takes(double score) const {
    return most_ > 0 && (heap_.size() < most_ || score < heap_.front().score);
  }
  void add(Screened s) {
    if (heap_.size() == most_) {
      std::pop_heap(heap_.begin(), heap_.end(), better);
      heap_.back() = std::move(s);
    } else {
      heap_.push_back(std::move(s));
    }
    std::push_heap(heap_.begin(), heap_.end(), better);
  }
  std::vector<Screened> take() { return std::move(heap_); }

 private:
  size_t most_;
  std::vector<Screened> heap_;
};

// No other needs less and is faster.
class Pareto {
 public:
  bool takes(int64_t need, double score) const {
    const auto above = front_.upper_bound(need);
    return above == front_.begin() || std::prev(above)->second.score > score;
  }
  void add(Screened s) {
    const int64_t need = s.estimate.need.count();
    auto at = front_.lower_bound(need);
    while (at != front_.end() && at->second.score >= s.score) at = front_.erase(at);
    front_.insert_or_assign(need, std::move(s));
  }
  std::map<int64_t, Screened>& front() { return front_; }

 private:
  std::map<int64_t, Screened> front_;
};

class Screen : public SpaceVisitor {
 public:
  Screen(const Plan& base,
         const std::optional<Calibration>& calibration,
         const SearchOptions& options,
         size_t kept,
         std::atomic<int64_t>& screened)
      : base_(base),
        estimator_(base, calibration, options.imbalance),
        options_(options),
        screened_(screened),
        kept_(kept) {}

  bool block(const Candidate& common) override {
    estimator_.begin_block(common);
    const Scenario key{common.gpus, common.batch, common.sequence, common.precision};
    here_ = &best_.try_emplace(key, kept_).first->second;
    screened_ += count - reported_;
    reported_ = count;
    return true;
  }

  void legal(const Candidate& c) override {
    ++count;
    const Estimate e = estimator_.estimate(c);
    const Fit fit = fit_of(e.need, base_.cluster.memory);
    ++(fit == Fit::kFits ? fits : fit == Fit::kTight ? tight : short_of_memory);
    const double score = score_of(c, e.step, options_.objective);
    const double bound = score_of(c, e.bound, options_.objective);
    const auto made = [&] { return Screened{c, e, score, bound}; };
    if (pareto.takes(e.need.count(), score)) pareto.add(made());
    if (fit == Fit::kShort) return;
    if (!fastest ||
        e.step / tokens_of(c) < fastest->estimate.step / tokens_of(fastest->candidate)) {
      fastest = made();
    }
    // An estimate may be off by a tenth.
    constexpr double kOff = 1.1;
    const auto& most = options_.most_seconds_per_token;
    if (most && e.step / tokens_of(c) > *most * kOff) return;
    bounds.push_back(static_cast<float>(bound));
    if (here_->takes(score)) here_->add(made());
  }

  std::vector<Screened> take() {
    std::vector<Screened> all;
    for (auto& [scenario, best] : best_) {
      for (Screened& s : best.take()) all.push_back(std::move(s));
    }
    return all;
  }

  int64_t count = 0, fits = 0, tight = 0, short_of_memory = 0;
  Pareto pareto;
  std::optional<Screened> fastest;
  std::vector<float> bounds;  // of all that fit
  const Estimator& estimator() const { return estimator_; }

 private:
  using Scenario = std::tuple<int64_t, int64_t, int64_t, Precision>;
  const Plan& base_;
  Estimator estimator_;
  const SearchOptions& options_;
  std::atomic<int64_t>& screened_;
  size_t kept_;
  int64_t reported_ = 0;
  std::map<Scenario, Best> best_;
  Best* here_ = nullptr;
};

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

class IllegalCounter : public SpaceVisitor {
 public:
  bool block(const Candidate&) override { return false; }
  void legal(const Candidate&) override {}
  bool wants_illegal() const override { return true; }
  void illegal(const Candidate& c, const Reason& why) override {
    // Numbers apart, one reason is as the other.
    std::string kind = why.setting + ": ";
    for (const char ch : why.message) {
      if (ch < '0' || ch > '9') kind += ch;
    }
    IllegalCount& count = counts[kind];
    if (count.count++ == 0) {
      count.example = why;
      count.layout = to_string(c);
    }
  }
  std::map<std::string, IllegalCount> counts;
};

}  // namespace

double score_of(const Candidate& c, double step, Objective objective) {
  const double tokens = static_cast<double>(c.batch) * static_cast<double>(c.sequence);
  return step / tokens * (objective == Objective::kCost ? static_cast<double>(c.gpus) : 1);
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

SearchResult screen(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& options) {
  const auto begin = Clock::now();
  require_computable(base);
  SearchResult r;
  // Each scenario has its best; the best of all come first later.
  const size_t scenarios =
      space.gpus.size() * space.batches.size() * space.sequences.size() * space.precisions.size();
  constexpr int64_t kFewest = 8;
  const auto kept = static_cast<size_t>(std::max(
      kFewest, 2 * options.simulations / static_cast<int64_t>(std::max<size_t>(1, scenarios))));
  std::atomic<int64_t> screened = 0;
  std::mutex lock;
  Pareto pareto;
  std::vector<float> bounds;
  // Pieces of unequal size, to whoever is free.
  std::atomic<int64_t> next = 0;
  const int64_t pieces = options.threads == 1 ? 1 : 256;
  on_threads(options.threads, [&](int32_t) {
    Screen own(base, calibration, options, kept, screened);
    for (int64_t i = next++; i < pieces; i = next++) {
      visit_space(space, base, own, i, pieces);
    }
    const std::lock_guard guard(lock);
    r.legal += own.count;
    r.fits += own.fits;
    r.tight += own.tight;
    r.short_of_memory += own.short_of_memory;
    r.blocks += own.estimator().blocks_priced();
    for (Screened& s : own.take()) r.screened.push_back(std::move(s));
    if (own.fastest &&
        (!r.fastest || own.fastest->estimate.step / tokens_of(own.fastest->candidate) <
                           r.fastest->estimate.step / tokens_of(r.fastest->candidate))) {
      r.fastest = std::move(own.fastest);
    }
    for (auto& [need, s] : own.pareto.front()) {
      if (pareto.takes(need, s.score)) pareto.add(std::move(s));
    }
    bounds.insert(bounds.end(), own.bounds.begin(), own.bounds.end());
    if (options.progress) options.progress(screened, 0, 0);
  });
  // Equal scores in an order that does not hang on threads.
  std::sort(r.screened.begin(), r.screened.end(), [](const Screened& a, const Screened& b) {
    if (a.score != b.score) return a.score < b.score;
    return to_string(a.candidate) < to_string(b.candidate);
  });
  for (auto& [need, s] : pareto.front()) r.pareto.push_back(std::move(s));
  if (!r.pareto.empty()) r.smallest = r.pareto.front();
  std::sort(bounds.begin(), bounds.end());
  r.bounds = std::move(bounds);
  r.screen_seconds = since(begin);
  return r;
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
  s.fullest = screened.estimate.fullest;
  s.memory = rank_memory(plan, s.fullest);
  s.fit = fit_of(s.memory.need(), plan.cluster.memory);
  try {
    require_run(plan);
    s.runnable = true;
  } catch (const InputError& e) {
    s.not_runnable = e.what();
  }
  return s;
}

void simulate_best(const Plan& base,
                   const std::optional<Calibration>& calibration,
                   const SearchOptions& options,
                   SearchResult& r) {
  const auto begin = Clock::now();
  const auto count =
      std::min(r.screened.size(), static_cast<size_t>(std::max<int64_t>(0, options.simulations)));
  std::mutex lock;
  size_t next = 0;
  std::vector<double> scores;  // of what was simulated, ascending
  std::vector<double> bounds;  // likewise
  on_threads(options.threads, [&](int32_t) {
    for (;;) {
      size_t at = 0;
      {
        const std::lock_guard guard(lock);
        // What cannot be among those shown is not simulated.
        const auto shown = static_cast<size_t>(options.shown);
        while (next < count && scores.size() >= shown &&
               r.screened[next].bound > scores[shown - 1]) {
          ++next;
          ++r.pruned;
        }
        if (next >= count) return;
        at = next++;
      }
      std::optional<Scored> in_time =
          score_in_time(base, calibration, r.screened[at], options.objective);
      const std::lock_guard guard(lock);
      if (!in_time) {
        ++r.too_long;
        continue;
      }
      Scored& s = *in_time;
      scores.insert(std::lower_bound(scores.begin(), scores.end(), s.score), s.score);
      bounds.push_back(s.screened.bound);
      r.best.push_back(std::move(s));
      ++r.simulated;
      if (options.progress) {
        options.progress(r.legal, r.simulated + r.pruned, static_cast<int64_t>(count));
      }
    }
  });
  std::sort(r.best.begin(), r.best.end(), [](const Scored& a, const Scored& b) {
    if (a.score != b.score) return a.score < b.score;
    return to_string(a.screened.candidate) < to_string(b.screened.candidate);
  });
  if (!r.best.empty()) {
    const double least = r.best.front().score;
    const auto below =
        std::lower_bound(r.bounds.begin(), r.bounds.end(), static_cast<float>(least));
    r.unproven = below - r.bounds.begin();
    for (const double b : bounds) r.unproven -= b < least ? 1 : 0;
    r.unproven = std::max<int64_t>(0, r.unproven);
  }
  r.simulate_seconds += since(begin);
}

SearchResult search(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& options) {
  SearchResult r = screen(base, calibration, space, options);
  simulate_best(base, calibration, options, r);
  return r;
}

namespace {

class Sampler : public SpaceVisitor {
 public:
  Sampler(int64_t most, uint64_t seed) : most_(most), state_(seed) {}
  bool block(const Candidate&) override { return true; }
  void legal(const Candidate& c) override {
    ++seen_;
    if (static_cast<int64_t>(drawn.size()) < most_) {
      drawn.push_back(c);
      return;
    }
    state_ = split_mix(state_);
    const uint64_t at = state_ % static_cast<uint64_t>(seen_);
    if (at < static_cast<uint64_t>(most_)) drawn[at] = c;
  }
  std::vector<Candidate> drawn;

 private:
  int64_t most_;
  int64_t seen_ = 0;
  uint64_t state_;
};

}  // namespace

std::vector<Candidate> sample(const Plan& base,
                              const SearchSpace& space,
                              int64_t count,
                              uint64_t seed) {
  Sampler sampler(count, split_mix(seed));
  visit_space(space, base, sampler);
  return std::move(sampler.drawn);
}

ScreenError judge_screen(const Plan& base,
                         const std::optional<Calibration>& calibration,
                         const SearchSpace& space,
                         int64_t count,
                         int32_t threads,
                         uint64_t seed) {
  // Half of what is legal seldom fits: those that do, of enough.
  constexpr int64_t kEnough = 8;
  Estimator estimator(base, calibration);
  std::vector<Screened> all;
  for (const Candidate& c : sample(base, space, kEnough * count, seed)) {
    if (static_cast<int64_t>(all.size()) == count) break;
    estimator.begin_block(c);
    const Estimate e = estimator.estimate(c);
    if (fit_of(e.need, base.cluster.memory) == Fit::kShort) continue;
    all.push_back({c, e, score_of(c, e.step, Objective::kCost), 0});
  }
  std::vector<double> told, simulated;
  std::atomic<size_t> next = 0;
  ScreenError e;
  std::mutex lock;
  on_threads(threads, [&](int32_t) {
    for (size_t i = next++; i < all.size(); i = next++) {
      const std::optional<Scored> in_time =
          score_in_time(base, calibration, all[i], Objective::kCost);
      const std::lock_guard guard(lock);
      if (!in_time) {
        ++e.too_long;
        continue;
      }
      const Scored& s = *in_time;
      told.push_back(all[i].score);
      simulated.push_back(s.score);
      const double error = all[i].estimate.step / s.step - 1;
      e.mean_absolute += std::abs(error);
      e.bias += error;
      e.tightest_bound = std::max(e.tightest_bound, all[i].estimate.bound / s.step);
    }
  });
  e.layouts = static_cast<int64_t>(told.size());
  e.mean_absolute /= std::max(1.0, static_cast<double>(told.size()));
  e.bias /= std::max(1.0, static_cast<double>(told.size()));
  e.rank_correlation = rank_correlation(told, simulated);
  return e;
}

std::vector<IllegalCount> count_illegal(const Plan& base, const SearchSpace& space) {
  IllegalCounter counter;
  visit_space(space, base, counter);
  std::vector<IllegalCount> all;
  for (auto& [kind, count] : counter.counts) all.push_back(std::move(count));
  std::sort(all.begin(), all.end(), [](const IllegalCount& a, const IllegalCount& b) {
    return a.count > b.count;
  });
  return all;
}

}  // namespace rehearse
