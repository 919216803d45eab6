#include "sim/predict.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/statistics.h"
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

// Standard deviation of the logarithm of the step's time.
double step_spread(const Plan& plan, const Program& program, const Calibration& calibration) {
  const Spread spread = spread_of(plan, calibration);
  Plan drawn = plan;
  const bool gpu = plan.cluster.of_gpus();
  // How far costs spread a step hangs neither on uneven experts nor on which switches there are.
  if (gpu) {
    drawn.expert_load = {};
    drawn.cluster.fabric.kind = FabricKind::kIdeal;
  }
  // Fewer draws where each takes seconds.
  constexpr int64_t kOps = 2'000'000;
  const int64_t ops = gpu ? static_cast<int64_t>(program.ops().size()) : program.global_size();
  const auto draws =
      static_cast<uint64_t>(std::clamp<int64_t>(kOps / std::max<int64_t>(1, ops), 8, 24));
  double sum = 0;
  double squares = 0;
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
    const double log = std::log(step.seconds());
    sum += log;
    squares += log * log;
  }
  const auto n = static_cast<double>(draws);
  return std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)));
}

}  // namespace

Spread spread_of(const Plan& plan, const Calibration& calibration) {
  // Of devices from tables each piece of work varies by its own error.
  if (calibration.device) return {calibration.device->rules().common, 1};
  if (!calibration.gpu) return {common_spread(calibration), calibration.interpolation_error};
  const GpuCosts costs(*calibration.gpu, plan.cluster);
  return {costs.repetition_spread(), costs.transfer_error()};
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
  const double spread = calibration ? step_spread(plan, program, *calibration) : 0;
  p.low = p.summary.step.scaled(std::exp(-kNinety * spread));
  p.high = p.summary.step.scaled(std::exp(kNinety * spread));
  p.wall = Duration::seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return p;
}

}  // namespace rehearse
