#pragma once
// The GPUs of this machine.

#include <string>
#include <vector>

namespace rehearse {

// "NVIDIA H200, 132 SMs, 140 GB, compute capability 9.0" per device; empty where there is none, no
// driver, or no CUDA in this build.
std::vector<std::string> gpu_descriptions();

// Why kernels cannot run on the first of them, which is to be of compute capability 9.0; "" where
// they can.
std::string why_no_gpu();

// "CUDA 13.0", or that this build has none.
std::string cuda_description();

}  // namespace rehearse
