// The step's end on cores.

#include <algorithm>
#include <cmath>

#include "runtime/devices/cpu/cpu_compute.h"

namespace rehearse {

void CpuCompute::step_status(std::span<const ConstArray> gradients,
                             const ConstArray& overflowed,
                             std::span<const ConstArray> losses,
                             const Array& status) const {
  double* const s = status.fp64();
  std::fill_n(s, StepStatus::kSize, 0.0);
  for (const ConstArray& g : gradients) {
    s[StepStatus::kSquares] += kernels::square_sum(g.extent.size(), g.fp32());
  }
  s[StepStatus::kOverflow] = static_cast<double>(*overflowed.int64());
  for (const ConstArray& l : losses) {
    s[StepStatus::kBadLosses] += static_cast<double>(std::count_if(
        l.fp64(), l.fp64() + l.extent.size(), [](double x) { return !std::isfinite(x); }));
  }
}

void CpuCompute::adamw(const AdamwCall& call) const {
  const double* const s = call.status.fp64();
  const double norm = std::sqrt(s[StepStatus::kSquares]);
  if (step_applies(s)) {
    kernels::AdamWSettings settings = call.settings;
    if (call.clip > 0 && norm > call.clip) settings.gradient_scale = call.clip / norm;
    float* const weights = call.weights.fp32();
    for (const AdamwCall::Segment& part : call.segments) {
      settings.weight_decay = part.weight_decay;
      const auto update = [&](auto* first, auto* second) {
        kernels::adamw(settings,
                       part.end - part.begin,
                       call.gradients.fp32() + part.begin,
                       weights + part.begin,
                       first + part.begin,
                       second + part.begin);
      };
      call.m.extent.type == DType::kBf16 ? update(call.m.bf16(), call.v.bf16())
                                         : update(call.m.fp32(), call.v.fp32());
    }
    if (call.rounded.data != nullptr) convert(call.weights, call.rounded);
    if (call.average.data != nullptr) {
      const auto decay = static_cast<float>(call.ema);
      float* const averages = call.average.fp32();
      for (int64_t i = 0; i < call.average.extent.size(); ++i) {
        averages[i] = decay * averages[i] + (1 - decay) * weights[i];
      }
    }
  }
}

}  // namespace rehearse
