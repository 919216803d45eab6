#include "runtime/devices/cpu/cpu_device.h"
#include "runtime/devices/emulated/held_device.h"

namespace rehearse {

std::unique_ptr<TrainingDevice> make_device(const Plan& plan, Communicator& communicator) {
  CHECK(plan.cluster.on_cores() || plan.cluster.emulated())
      << "no device that trains on cluster " << plan.cluster.name;
  auto cores = std::make_unique<CpuDevice>(plan, communicator);
  if (!plan.cluster.emulated()) return cores;
  return std::make_unique<HeldDevice>(plan, std::move(cores));
}

}  // namespace rehearse
