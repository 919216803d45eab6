#include "runtime/devices/cpu/cpu_device.h"

#include "runtime/compute/yarn.h"

namespace rehearse {

kernels::RopeTable rope_table(const Plan& plan) {
  return {plan.training.sequence_length, rope_frequencies(plan.model), rope_amplitude(plan.model)};
}

CpuDevice::CpuDevice(const Plan& plan, Communicator& communicator)
    : communicator_(communicator),
      rope_(rope_table(plan)),
      lanes_(communicator),
      ranks_(static_cast<size_t>(plan.layout.world())) {
  const PrecisionRecipe recipe = recipe_of(plan.training);
  for (const int64_t rank : communicator.local_ranks()) {
    ranks_[static_cast<size_t>(rank)] = std::make_unique<Rank>(rope_, recipe);
  }
}

CpuDevice::Rank& CpuDevice::at(int64_t rank) const {
  const auto& found = ranks_[static_cast<size_t>(rank)];
  CHECK(found != nullptr) << "rank " << rank << " is on another process";
  return *found;
}

}  // namespace rehearse
