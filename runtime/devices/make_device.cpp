#include "runtime/devices/cpu/cpu_device.h"
#include "runtime/devices/cuda/gpu/cuda_gpu.h"
#include "runtime/devices/cuda/gpu_device.h"
#include "runtime/devices/emulated/held_device.h"

namespace rehearse {

std::unique_ptr<TrainingDevice> make_device(const Plan& plan,
                                            Communicator& communicator,
                                            TrainOn on) {
  if (on == TrainOn::kCard) {
    return std::make_unique<GpuDevice>(
        plan, communicator, make_cuda_gpu(GpuOptions().streams), rope_table(plan));
  }
  auto cores = std::make_unique<CpuDevice>(plan, communicator);
  if (!plan.cluster.emulated()) return cores;
  return std::make_unique<HeldDevice>(plan, std::move(cores));
}

}  // namespace rehearse
