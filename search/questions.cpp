#include "search/questions.h"

#include <algorithm>
#include <atomic>

#include <fmt/format.h>

#include "base/errors.h"
#include "search/share.h"

namespace rehearse {
namespace {

// Stops at the first that fits.
class FirstFit : public SpaceVisitor {
 public:
  FirstFit(const Plan& base,
           const std::optional<Calibration>& calibration,
           double imbalance,
           std::atomic<bool>& found)
      : base_(base), estimator_(base, calibration, imbalance), found_(found) {}
  bool block(const Candidate& common) override {
    if (found_) return false;
    estimator_.begin_block(common);
    return true;
  }
  void legal(const Candidate& c) override {
    if (found_) return;
    if (fit_of(estimator_.estimate(c).need, base_.cluster.memory) != Fit::kShort) found_ = true;
  }

 private:
  const Plan& base_;
  Estimator estimator_;
  std::atomic<bool>& found_;
};

}  // namespace

std::vector<MemoryWay> ways_to_need_less(const Plan& base,
                                         const std::optional<Calibration>& calibration,
                                         const Candidate& now,
                                         double imbalance) {
  const Screened from = screened_alone(base, calibration, now, Objective::kTime, imbalance);
  std::vector<std::pair<std::string, Candidate>> changes;
  const auto change = [&](std::string what, const std::function<void(Candidate&)>& to) {
    Candidate c = now;
    to(c);
    if (!(c == now)) changes.emplace_back(std::move(what), std::move(c));
  };
  for (const NamedRecompute& n : named_recomputes()) {
    change(fmt::format("recompute {}", n.name), [&](Candidate& c) { c.recompute = n.recompute; });
  }
  for (int64_t zero = now.layout.zero_stage + 1; zero <= 3; ++zero) {
    change(fmt::format("ZeRO {}", zero), [&](Candidate& c) { c.layout.zero_stage = zero; });
  }
  if (now.micro_batch_size % 2 == 0) {
    change(fmt::format("micro-batches of {}", now.micro_batch_size / 2), [&](Candidate& c) {
      c.micro_batch_size /= 2;
      c.micro_batches *= 2;
    });
  }
  const auto fewer_replicas = [&](Candidate& c) {
    c.layout.dp /= 2;
    c.micro_batches *= 2;
  };
  if (now.layout.dp % 2 == 0) {
    change(fmt::format("PP{} instead of PP{}", 2 * now.layout.pp, now.layout.pp),
           [&](Candidate& c) {
             c.layout.pp *= 2;
             fewer_replicas(c);
           });
    change(fmt::format("TP{} instead of TP{}", 2 * now.layout.tp, now.layout.tp),
           [&](Candidate& c) {
             c.layout.tp *= 2;
             fewer_replicas(c);
           });
    change(fmt::format("CP{} instead of CP{}", 2 * now.layout.cp, now.layout.cp),
           [&](Candidate& c) {
             c.layout.cp *= 2;
             fewer_replicas(c);
           });
  }
  if (base.model.architecture.experts > 0) {
    change(fmt::format("EP{} instead of EP{}", 2 * now.layout.ep, now.layout.ep),
           [&](Candidate& c) { c.layout.ep *= 2; });
  }
  for (const auto& named : kSchedules.entries()) {
    const ScheduleKind kind = named.value;
    if (kind == ScheduleKind::kInterleaved) continue;
    change(fmt::format("schedule {}", name_of(kind)),
           [&](Candidate& c) { c.layout.schedule = kind; });
  }
  std::vector<MemoryWay> ways;
  for (auto& [what, c] : changes) {
    if (c.layout.stages() != static_cast<int64_t>(c.layout.layers_per_stage.size())) {
      const auto splits = stage_splits(base.model.architecture, c.layout, c.sequence, true);
      if (splits.empty()) continue;
      c.layout.layers_per_stage = splits.back();
    }
    if (!why_not(plan_of(base, c)).empty()) continue;
    const Screened s = screened_alone(base, calibration, c, Objective::kTime, imbalance);
    const auto saved = Bytes(from.estimate.need.count() - s.estimate.need.count());
    constexpr double kLeast = 0.01;
    if (static_cast<double>(saved.count()) <
        kLeast * static_cast<double>(from.estimate.need.count()))
      continue;
    ways.push_back({.what = what,
                    .candidate = c,
                    .need = s.estimate.need,
                    .saved = saved,
                    .step_change = s.estimate.step / from.estimate.step - 1});
  }
  const auto price = [](const MemoryWay& w) {
    return w.step_change / static_cast<double>(w.saved.count());
  };
  std::sort(ways.begin(), ways.end(), [&](const MemoryWay& a, const MemoryWay& b) {
    return price(a) < price(b);
  });
  return ways;
}

bool any_fits(const Plan& base,
              const std::optional<Calibration>& calibration,
              const SearchSpace& space,
              const SearchOptions& options) {
  std::atomic<bool> found = false;
  constexpr int64_t kPieces = 64;
  std::atomic<int64_t> next = 0;
  on_threads(options.threads, [&](int32_t) {
    FirstFit own(base, calibration, options.imbalance, found);
    for (int64_t i = next++; i < kPieces && !found; i = next++) {
      visit_space(space, base, own, i, kPieces);
    }
  });
  return found;
}

Largest largest(Plan& base,
                const std::optional<Calibration>& calibration,
                const SearchSpace& asked,
                SearchSpace& space,
                Grown what,
                const SearchOptions& options) {
  Architecture& a = base.model.architecture;
  const int64_t unit = what == Grown::kSequence ? 1024
                       : what == Grown::kLayers ? 1
                                                : std::max<int64_t>(1, a.groups);
  if (what == Grown::kExperts && a.experts == 0) {
    throw InputError("--largest experts: the model has none");
  }
  const Plan as_asked = base;
  const SearchSpace as_filled = space;
  // The plan and space of another size.
  const auto resize = [&](int64_t value) {
    base = as_asked;
    SearchSpace wanted = asked;
    if (what == Grown::kSequence) {
      wanted.sequences = {value};
      base.training.sequence_length = value;
    } else if (what == Grown::kLayers) {
      base.model.architecture.layers = value;
      base.layout.layers_per_stage.clear();
    } else {
      base.model.architecture.experts = value;
    }
    space = filled(wanted, base);
  };
  const auto fits = [&](int64_t value) {
    resize(value);
    return any_fits(base, calibration, space, options);
  };
  int64_t low = what == Grown::kSequence ? as_filled.sequences.front()
                : what == Grown::kLayers ? a.layers
                                         : a.experts;
  if (!fits(low)) {
    throw InputError(fmt::format("--largest {}: not even {} fits", kGrown[what], low));
  }
  int64_t high = 2 * low;
  constexpr int64_t kMost = int64_t{1} << 26;
  while (high < kMost && fits(high)) {
    low = high;
    high *= 2;
  }
  // To a thirty-second, or the unit.
  constexpr int64_t kFine = 32;
  while (high - low > std::max(unit, low / kFine)) {
    const int64_t middle = std::max(low + unit, (low + high) / 2 / unit * unit);
    if (middle >= high) break;
    (fits(middle) ? low : high) = middle;
  }
  resize(low);
  return {.value = low, .too_large = high};
}

std::vector<PhaseAnswer> in_phases(const Plan& base,
                                   const std::optional<Calibration>& calibration,
                                   const SearchSpace& asked,
                                   const Candidate& candidate,
                                   const std::vector<PhaseAsked>& phases,
                                   const SearchOptions& options) {
  std::vector<PhaseAnswer> answers;
  for (const PhaseAsked& phase : phases) {
    PhaseAnswer answer{.phase = phase};
    Candidate c = candidate;
    c.batch = phase.batch;
    c.sequence = phase.sequence;
    const int64_t at_once = c.layout.dp * c.micro_batch_size;
    Plan there = base;
    there.training.sequence_length = phase.sequence;
    if (c.batch % at_once != 0) {
      answer.why_not = fmt::format(
          "{} sequences do not divide over dp {} x {}", c.batch, c.layout.dp, c.micro_batch_size);
    } else {
      c.micro_batches = c.batch / at_once;
      const Reasons reasons = why_not(plan_of(there, c));
      if (!reasons.empty()) {
        answer.why_not = fmt::format("{}: {}", reasons.front().setting, reasons.front().message);
      }
    }
    if (answer.why_not.empty()) {
      answer.same =
          score_in_time(there,
                        calibration,
                        screened_alone(there, calibration, c, options.objective, options.imbalance),
                        options.objective);
    }
    if (!answer.same || answer.same->fit == Fit::kShort) {
      SearchSpace wanted = asked;
      wanted.gpus = {candidate.gpus};
      wanted.batches = {phase.batch};
      wanted.sequences = {phase.sequence};
      wanted.precisions = {candidate.precision};
      SearchOptions how{.objective = options.objective,
                        .simulations = 20,
                        .shown = 1,
                        .threads = options.threads,
                        .imbalance = options.imbalance};
      SearchResult found = search(there, calibration, filled(wanted, there), how);
      if (!found.best.empty()) answer.other = std::move(found.best.front());
    }
    answers.push_back(std::move(answer));
  }
  return answers;
}

}  // namespace rehearse
