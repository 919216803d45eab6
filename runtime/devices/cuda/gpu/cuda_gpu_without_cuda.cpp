// The same answers for a build without CUDA.

#include "base/errors.h"
#include "kernels/devices/devices.h"
#include "runtime/devices/cuda/gpu/cuda_gpu.h"

namespace rehearse {

std::unique_ptr<Gpu> make_cuda_gpu(int32_t) {
  throw InputError("no card to train on: " + why_no_gpu());
}

}  // namespace rehearse
