#pragma once
// Tensor maps and launches. Errors of the CUDA runtime and driver are thrown as std::runtime_error
// with file and line.

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels::gpu {

// Throws what CUDA says of an error, with the place.
void check_cuda(cudaError_t error, const char* what, const char* file, int line);
#define REHEARSE_CUDA(call) ::rehearse::kernels::gpu::check_cuda(call, #call, __FILE__, __LINE__)

namespace ptx {

// Throws std::invalid_argument where the hardware refuses the shape.
TensorMap make_tensor_map(const TensorShape& shape);

// Starts kernel(argument) on the stream.
template <auto kKernel, class Argument>
void launch(const LaunchShape& shape, Stream stream, const Argument& argument) {
  static_assert(sizeof(Argument) <= 4096);
  if (shape.shared_bytes > 48 * 1024) {
    REHEARSE_CUDA(cudaFuncSetAttribute(
        kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes));
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
  attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(shape.blocks);
  config.blockDim = static_cast<unsigned>(shape.threads);
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream.handle);
  config.attrs = attributes;
  config.numAttrs = shape.waits_itself ? 2 : 1;
  REHEARSE_CUDA(cudaLaunchKernelEx(&config, kKernel, argument));
}

}  // namespace ptx
}  // namespace rehearse::kernels::gpu
