#include "cli/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "base/progress.h"
#include "base/random.h"
#include "base/statistics.h"
#include "runtime/machine.h"
#include "runtime/time_overheads.h"
#include "sim/expert_load.h"
#include "sim/price/estimate.h"
#include "sim/simulate.h"

namespace rehearse::cli {
namespace {

constexpr const char* kTimeFormat = "{:%Y-%m-%d %H:%M} UTC";

std::string utc_now() {
  return fmt::format(kTimeFormat, fmt::gmtime(std::time(nullptr)));
}

void add_calls(const Plan& plan, std::set<KernelCall>& calls) {
  const Program program = build_program(plan);
  std::set<int64_t> expert_rows;
  ExpertLoad balanced(plan);
  for (const MemberLoad& load : balanced.of(0, 0, 0).members) {
    expert_rows.insert(load.expert_rows.begin(), load.expert_rows.end());
  }
  for (const KernelCall& call : kernels_of(plan, program)) {
    calls.insert(call);
    // Routing is not balanced in fact: experts get fewer and more rows than the mean.
    if (!expert_rows.contains(call.shape[kRowsEntry])) continue;
    for (const double factor : {0.125, 0.25, 0.5, 1.5, 2.0, 4.0}) {
      KernelCall scaled = call;
      const double rows = factor * static_cast<double>(call.shape[kRowsEntry]);
      scaled.shape[kRowsEntry] = std::max<int64_t>(1, static_cast<int64_t>(rows));
      calls.insert(scaled);
    }
  }
}

// Products and attention, nearly all of a step's time, at shapes off the grid.
std::vector<KernelCall> held_out_calls() {
  constexpr int kEach = 12;
  Random random(20);
  // Spread evenly in logarithms.
  const auto draw = [&](double low, double high) {
    return static_cast<int64_t>(low * std::pow(high / low, random.uniform()));
  };
  std::vector<KernelCall> calls;
  for (int i = 0; i < kEach; ++i) {
    for (const Kernel k : {Kernel::kMatmul, Kernel::kMatmulGradInput, Kernel::kMatmulGradWeight}) {
      calls.push_back({k, {draw(16, 1024), draw(4, 64) * 8, draw(4, 64) * 8}});
    }
    for (const Kernel k : {Kernel::kAttention, Kernel::kAttentionBackward}) {
      calls.push_back(
          {k, {draw(1, 4), draw(4, 64) * 8, draw(2, 8), draw(4, 16) * 8, draw(2, 12) * 8}});
    }
  }
  return calls;
}

double mean(const std::vector<Duration>& times) {
  double sum = 0;
  for (const Duration t : times) sum += t.seconds();
  return sum / static_cast<double>(times.size());
}

Duration quantile(std::vector<Duration>& times, double q) {
  const auto at =
      times.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(times.size() - 1) + 0.5);
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

KernelTime over_rounds(const std::vector<KernelRound>& rounds) {
  std::vector<Duration> alone, busy;
  std::vector<double> means;
  for (const KernelRound& r : rounds) {
    alone.insert(alone.end(), r.alone.begin(), r.alone.end());
    busy.insert(busy.end(), r.busy.begin(), r.busy.end());
    means.push_back(mean(r.alone));
  }
  KernelTime t{.alone = quantile(alone, 0.5),
               .mean = Duration::seconds(median(std::move(means))),
               .low = quantile(alone, 0.05),
               .high = quantile(alone, 0.95)};
  t.busy = busy.empty() ? t.alone : quantile(busy, 0.5);
  return t;
}

// Each round's time over the median round's, geometric mean over kernels.
std::vector<double> drift_of(const std::vector<std::vector<KernelRound>>& timings) {
  std::vector<double> drift;
  for (size_t round = 0; round < timings.front().size(); ++round) {
    double sum = 0;
    for (const auto& of_call : timings) {
      std::vector<Duration> times = of_call[round].alone;
      sum += std::log(quantile(times, 0.5) / over_rounds(of_call).alone);
    }
    drift.push_back(std::exp(sum / static_cast<double>(timings.size())));
  }
  return drift;
}

}  // namespace

Calibration measure(std::span<const Plan> plans, const MeasureOptions& options) {
  std::set<KernelCall> wanted;
  if (options.grid) {
    for (const KernelCall& call : grid_calls()) wanted.insert(call);
  }
  for (const Plan& plan : plans) add_calls(plan, wanted);
  std::vector<KernelCall> calls(wanted.begin(), wanted.end());
  const size_t kept = calls.size();
  if (options.grid) {
    for (const KernelCall& call : held_out_calls()) calls.push_back(call);
  }
  CHECK(!calls.empty()) << "nothing to measure";

  Calibration c{.machine = processor_name(),
                .cores = host_cores(),
                .build = build_description(),
                .sources = kernel_sources(),
                .measured = utc_now()};
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  const auto count = static_cast<int64_t>(calls.size());
  Progress progress(
      {.label = "calibrate", .total = count * options.rounds, .quiet = options.quiet});
  c.overheads = time_overheads(c.cores);
  KernelBench bench(c.cores);
  std::vector<std::vector<KernelRound>> timings(calls.size());
  constexpr int64_t kLeast = 2;  // rounds: one alone tells no drift
  int64_t rounds = 0;
  const auto next_fits = [&] {
    const double longest = options.limit ? options.limit->seconds() : 0;
    return !options.limit || rounds < kLeast ||
           passed() * static_cast<double>(rounds + 1) / static_cast<double>(rounds) < longest;
  };
  for (; rounds < options.rounds && next_fits(); ++rounds) {
    const auto round = bench.time(calls,
                                  {.budget = options.budget_per_kernel,
                                   .rounds = 1,
                                   .first_round = rounds,
                                   .progress = [&](int64_t done, const KernelCall& call) {
                                     progress.update(rounds * count + done, to_string(call));
                                   }});
    for (size_t i = 0; i < timings.size(); ++i) timings[i].push_back(round[i].front());
  }
  c.drift = drift_of(timings);
  for (size_t i = 0; i < kept; ++i) c.kernels[calls[i]] = over_rounds(timings[i]);
  double squares = 0;
  for (size_t i = kept; i < calls.size(); ++i) {
    const double error =
        std::log(estimate(c, calls[i])->time.alone / over_rounds(timings[i]).alone);
    squares += error * error;
  }
  if (kept < calls.size()) {
    c.interpolation_error = std::sqrt(squares / static_cast<double>(calls.size() - kept));
  }
  return c;
}

SpeedCheck::SpeedCheck(const Calibration& calibration)
    : calibration_(calibration), bench_(host_cores()) {
  // Products and attention make up most of a step; long enough to time, short enough for many.
  constexpr size_t kCalls = 200;
  std::vector<KernelCall> handy;
  for (const auto& [call, time] : calibration.kernels) {
    const bool large = is_product(call.kernel) || is_attention(call.kernel);
    const bool short_enough =
        time.alone > Duration::microseconds(50) && time.alone < Duration::microseconds(1500);
    if (large && short_enough) handy.push_back(call);
  }
  const size_t count = std::min(kCalls, handy.size());
  for (size_t i = 0; i < count; ++i) sample_.push_back(handy[i * handy.size() / count]);
}

SpeedCheck::Result SpeedCheck::now() {
  if (sample_.empty()) return {};
  const auto timings =
      bench_.time(sample_, {.budget = Duration::microseconds(300), .rounds = 2 * host_cores()});
  std::vector<double> ratios;
  for (size_t i = 0; i < sample_.size(); ++i) {
    const KernelTime time = over_rounds(timings[i]);
    const KernelTime& then = calibration_.kernels.at(sample_[i]);
    ratios.push_back(std::sqrt((time.alone / then.alone) * (time.busy / then.busy)));
  }
  std::sort(ratios.begin(), ratios.end());
  return {.calls = static_cast<int64_t>(sample_.size()),
          .ratio = median(ratios),
          .low = ratios[ratios.size() / 10],
          .high = ratios[ratios.size() * 9 / 10]};
}

double SpeedCheck::lately() {
  constexpr size_t kAtFirst = 5;
  constexpr size_t kLooks = 11;
  do {
    looks_.push_back(now().ratio);
  } while (looks_.size() < kAtFirst);
  if (looks_.size() > kLooks) looks_.pop_front();
  return median({looks_.begin(), looks_.end()});
}

std::vector<std::string> calibration_doubts(const Calibration& c, const Plan& plan) {
  std::vector<std::string> doubts;
  if (!plan.cluster.on_host && !plan.cluster.emulated()) return doubts;
  const auto differs = [&](const char* what, const std::string& theirs, const std::string& ours) {
    if (theirs != ours) doubts.push_back(fmt::format("{}: '{}', here '{}'", what, theirs, ours));
  };
  differs("measured on another processor", c.machine, processor_name());
  differs("measured with another number of cores",
          std::to_string(c.cores),
          std::to_string(host_cores()));
  differs("measured with another build", c.build, build_description());
  differs("measured other kernel sources", c.sources, kernel_sources());
  return doubts;
}

}  // namespace rehearse::cli
