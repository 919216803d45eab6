#include <cuda_runtime.h>

#include "kernels/devices/devices.h"

namespace rehearse {

std::vector<std::string> gpu_descriptions() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<std::string> list;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    list.push_back(std::string(p.name) + ", " + std::to_string(p.multiProcessorCount) + " SMs, " +
                   std::to_string(p.totalGlobalMem / 1000000000) + " GB, compute capability " +
                   std::to_string(p.major) + "." + std::to_string(p.minor));
  }
  return list;
}

std::string cuda_description() {
  return "CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
         std::to_string(CUDART_VERSION % 1000 / 10);
}

}  // namespace rehearse
