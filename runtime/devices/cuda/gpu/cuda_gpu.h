#pragma once
// This machine's card.

#include <memory>

#include "runtime/devices/cuda/gpu/gpu.h"

namespace rehearse {

// The first card, with so many streams. Throws InputError where there is none that the kernels can
// run on (kernels/devices/devices.h).
std::unique_ptr<Gpu> make_cuda_gpu(int32_t streams);

}  // namespace rehearse
