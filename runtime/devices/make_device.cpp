#include "runtime/devices/cpu/cpu_device.h"

namespace rehearse {

std::unique_ptr<TrainingDevice> make_device(const Plan& plan,
                                            const Program& program,
                                            const TextData& data,
                                            Communicator& communicator) {
  // An emulated device computes on the CPU too, and then holds its ops.
  CHECK(plan.cluster.on_cores() || plan.cluster.emulated())
      << "no device that trains on cluster " << plan.cluster.name;
  return std::make_unique<CpuDevice>(plan, program, data, communicator);
}

}  // namespace rehearse
