#include "sim/predict.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/statistics.h"
#include "plan/legal.h"
#include "sim/price/gpu_costs.h"

namespace rehearse {
namespace {

constexpr double kNinety = 1.645;  // standard deviations either way that hold 90% of a normal

// Standard deviation of the logarithm of the machine's speed from one minute to the next: how far
// the calibration's rounds lie apart, as Student's t sees it, and how far single calls do, which
// on an otherwise idle machine is its speed from one moment to the next.
double common_spread(const Calibration& c) {
  double sum = 0;
  double squares = 0;
  for (const double d : c.drift) {
    sum += std::log(d);
    squares += std::log(d) * std::log(d);
  }
  const auto n = static_cast<double>(c.drift.size());
  const double rounds = n < 2 ? 0 : std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)));
  std::vector<double> of_calls;
  for (const auto& [call, t] : c.kernels) {
    // Shorter ones show the clock's own spread.
    if (t.alone < Duration::microseconds(20)) continue;
    of_calls.push_back(std::log(t.high / t.low) / (2 * kNinety));
  }
  return std::hypot(rounds, median(of_calls));
}

// Fewer draws where each takes seconds.
uint64_t draws_of(const Plan& plan, const Program& program) {
  constexpr int64_t kOps = 2'000'000;
  const int64_t ops =
      plan.cluster.of_gpus() ? static_cast<int64_t>(program.ops().size()) : program.global_size();
  return static_cast<uint64_t>(std::clamp<int64_t>(kOps / std::max<int64_t>(1, ops), 8, 24));
}

// Logarithms of the step's seconds with costs drawn from the calibration's spread. Draw i of two
// plans has the same errors of what both are made of.
std::vector<double> drawn_steps(const Plan& plan,
                                const Program& program,
                                const Calibration& calibration,
                                uint64_t draws) {
  const Spread spread = spread_of(plan, calibration);
  Plan drawn = plan;
  const bool gpu = plan.cluster.of_gpus();
  // How far costs spread a step hangs neither on uneven experts nor on which switches there are.
  if (gpu) {
    drawn.expert_load = {};
    drawn.cluster.fabric.kind = FabricKind::kIdeal;
  }
  std::vector<double> logs;
  for (uint64_t i = 0; i < draws; ++i) {
    // Evenly spaced quantiles of the common factor, in an order that the seeds know nothing of.
    const double z = normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(draws));
    const CostVariation variation{.common = std::exp(spread.common * z),
                                  .interpolated = spread.interpolated,
                                  .seed = i + 1,
                                  .draws = draws};
    const Duration step = simulate(drawn,
                                   program,
                                   calibration,
                                   {.variation = variation, .keep = Keep::kSummary, .fold = gpu})
                              .summary.step;
    logs.push_back(std::log(step.seconds()));
  }
  return logs;
}

double standard_deviation(const std::vector<double>& values) {
  double sum = 0;
  double squares = 0;
  for (const double v : values) {
    sum += v;
    squares += v * v;
  }
  const auto n = static_cast<double>(values.size());
  return std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)));
}

// A plan whose step is as much a matter of each cost, and shorter to simulate.
Plan with_fewer_micro_batches(const Plan& plan) {
  constexpr int64_t kOps = 100'000, kOfLayer = 12;
  const int64_t n = plan.training.micro_batches;
  Plan fewer = plan;
  fewer.training.micro_batches = std::min(n, 8 * plan.layout.pp);
  const bool is_long = n * plan.model.architecture.layers * kOfLayer > kOps;
  return is_long && plan.cluster.of_gpus() && why_not(fewer).empty() ? fewer : plan;
}

}  // namespace

Spread spread_of(const Plan& plan, const Calibration& calibration) {
  // Of devices from tables each piece of work varies by its own error.
  if (calibration.device) return {calibration.device->rules().common, 1};
  if (!calibration.gpu) return {common_spread(calibration), calibration.interpolation_error};
  const GpuCosts costs(*calibration.gpu, plan.cluster);
  return {costs.repetition_spread(), costs.transfer_error()};
}

double ratio_spread(const PricedPlan& a, const PricedPlan& b, bool one_calibration) {
  const Plan plans[] = {with_fewer_micro_batches(a.plan), with_fewer_micro_batches(b.plan)};
  const Program programs[] = {build_program(plans[0]), build_program(plans[1])};
  const uint64_t draws = std::min(draws_of(plans[0], programs[0]), draws_of(plans[1], programs[1]));
  const auto logs = [&](size_t i, const std::optional<Calibration>& calibration) {
    return calibration ? drawn_steps(plans[i], programs[i], *calibration, draws)
                       : std::vector<double>(draws, 0);
  };
  const std::vector<double> of_a = logs(0, a.calibration);
  std::vector<double> of_b = logs(1, b.calibration);
  if (!one_calibration) return std::hypot(standard_deviation(of_a), standard_deviation(of_b));
  for (size_t i = 0; i < of_b.size(); ++i) of_b[i] -= of_a[i];
  return standard_deviation(of_b);
}

double tokens_of(const Plan& plan, const Program& program) {
  return static_cast<double>(program.spec().mode == Mode::kPair
                                 ? plan.step_tokens() / plan.training.micro_batches
                                 : plan.step_tokens());
}

StepPrediction predict(const Plan& plan,
                       const Program& program,
                       const std::optional<Calibration>& calibration,
                       const SimulateOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  StepPrediction p;
  p.median = simulate(plan, program, calibration, options);
  p.summary = p.median.summary;
  const double spread =
      calibration
          ? standard_deviation(drawn_steps(plan, program, *calibration, draws_of(plan, program)))
          : 0;
  p.low = p.summary.step.scaled(std::exp(-kNinety * spread));
  p.high = p.summary.step.scaled(std::exp(kNinety * spread));
  p.wall = Duration::seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return p;
}

}  // namespace rehearse
