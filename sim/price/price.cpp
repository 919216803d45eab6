#include "sim/price/price.h"

#include <cmath>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "base/random.h"
#include "base/statistics.h"
#include "plan/legal.h"

namespace rehearse {

void require_computable(const Plan& plan) {
  const Reasons impossible = why_not(plan.cluster, plan.training);
  if (impossible.empty()) return;
  const Reason& first = impossible.front();
  throw InputError(fmt::format("{}: {}: {}", plan.path, first.setting, first.message));
}

void CostSources::add(const CostSources& other) {
  measured += other.measured;
  interpolated += other.interpolated;
  roofline += other.roofline;
  stated += other.stated;
  unmeasured.insert(other.unmeasured.begin(), other.unmeasured.end());
}

void CostSources::add_seconds(const CostSources& other, double times) {
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] += times * other.seconds[i];
  for (const auto& [name, s] : other.told) told[name] += times * s;
  for (const auto& [piece, s] : other.pieces) pieces[piece] += times * s;
  for (const auto& [kind, s] : other.kinds) kinds[kind] += times * s;
  experts += times * other.experts;
  host += times * other.host;
}

bool shares_sms(const Plan& plan) {
  const Layout& l = plan.layout;
  const bool pairs = l.schedule == ScheduleKind::kDualPipe ||
                     l.schedule == ScheduleKind::kDualPipeV || l.overlap_all_to_all;
  return pairs && l.ep > 1;
}

namespace {

// Tables tell nothing of another device.
void require_same(const Plan& plan, const DeviceFacts& device) {
  const Cluster& c = plan.cluster;
  constexpr double kSame = 0.01;
  const auto differs = [&](double a, double b) { return std::abs(a / b - 1) > kSame; };
  const bool fp8 = plan.training.precision == Precision::kFp8;
  const bool other = differs(c.peak.value(), device.peaks.bf16.value()) ||
                     differs(c.memory_bandwidth.value(), device.peaks.memory.value()) ||
                     c.sms != device.sms;
  if (other) {
    throw InputError(fmt::format(
        "{}: its calibration is of '{}' ({}, {}, {} SMs), the devices of cluster '{}' are others "
        "({}, {}, {} SMs): leave calibration out, or make their own (calibrate --from-tables)",
        plan.path,
        device.name,
        to_string(device.peaks.bf16),
        to_string(device.peaks.memory),
        device.sms,
        c.name,
        to_string(c.peak),
        to_string(c.memory_bandwidth),
        c.sms));
  }
  if (fp8 && !device.fp8) {
    throw InputError(
        fmt::format("{}: training.precision: fp8, and '{}' has no FP8", plan.path, device.name));
  }
}

}  // namespace

std::unique_ptr<Price> make_price(const Plan& plan,
                                  const OpWork& work,
                                  const std::optional<Calibration>& calibration,
                                  const CostVariation& variation) {
  const Cluster& cluster = plan.cluster;
  if (calibration && cluster.of_gpus() != calibration->of_gpus()) {
    throw InputError(fmt::format("{}: its calibration is of {}, its cluster '{}' is not",
                                 plan.path,
                                 calibration->of_gpus() ? "GPUs" : "a CPU's kernels",
                                 cluster.name));
  }
  require_computable(plan);
  if (cluster.emulated()) {
    return emulated_price(plan, work, calibration.value_or(Calibration{}), variation);
  }
  if (calibration && calibration->device) {
    require_same(plan, calibration->device->facts());
    return device_price(plan, work, *calibration->device, variation);
  }
  if (cluster.of_gpus()) {
    return gpu_price(
        plan, work, calibration ? *calibration->gpu : uncalibrated(cluster), variation);
  }
  return host_price(plan, work, calibration.value_or(Calibration{}), variation);
}

double normal_of(uint64_t seed, const KernelCall& call) {
  uint64_t state = seed;
  const auto next = [&](uint64_t value) {
    state = split_mix(state + value);
    return static_cast<double>(state >> 11) * 0x1.0p-53;
  };
  next(static_cast<uint64_t>(call.kernel));
  for (const int64_t entry : call.shape) next(static_cast<uint64_t>(entry));
  double sum = -6;
  for (uint64_t i = 0; i < 12; ++i) sum += next(i);
  return sum;
}

double normal_of(const CostVariation& variation, const KernelCall& name) {
  if (variation.draws == 0) return normal_of(variation.seed, name);
  std::vector<uint64_t> order(variation.draws);
  std::iota(order.begin(), order.end(), uint64_t{0});
  uint64_t state = split_mix(static_cast<uint64_t>(name.kernel));
  for (const int64_t entry : name.shape) state = split_mix(state + static_cast<uint64_t>(entry));
  for (size_t i = order.size(); i > 1; --i) {
    state = split_mix(state);
    std::swap(order[i - 1], order[state % i]);
  }
  const uint64_t at = order[(variation.seed - 1) % variation.draws];
  return normal_quantile((static_cast<double>(at) + 0.5) / static_cast<double>(variation.draws));
}

}  // namespace rehearse
