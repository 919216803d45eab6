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

std::string why_no_gpu() {
  int count = 0;
  if (const cudaError_t e = cudaGetDeviceCount(&count); e != cudaSuccess) {
    return e == cudaErrorInsufficientDriver
               ? "no NVIDIA driver, or one older than " + cuda_description() + " asks for"
               : cudaGetErrorString(e);
  }
  if (count == 0) return "no CUDA device";
  cudaDeviceProp p;
  if (const cudaError_t e = cudaGetDeviceProperties(&p, 0); e != cudaSuccess) {
    return cudaGetErrorString(e);
  }
  if (p.major != 9 || p.minor != 0) {
    return std::string(p.name) + " is of compute capability " + std::to_string(p.major) + "." +
           std::to_string(p.minor) + "; the kernels are for 9.0";
  }
  return "";
}

std::string cuda_description() {
  return "CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
         std::to_string(CUDART_VERSION % 1000 / 10);
}

}  // namespace rehearse
