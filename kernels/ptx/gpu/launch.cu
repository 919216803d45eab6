#include <cstring>
#include <stdexcept>
#include <string>

#include <cuda.h>

#include "kernels/ptx/gpu/launch.cuh"

namespace rehearse::kernels::gpu {

void check_cuda(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what + ": " +
                           cudaGetErrorString(error));
}

namespace ptx {

TensorMap make_tensor_map(const TensorShape& shape) {
  // Through the runtime, so that programs do not link the driver and start without one.
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    REHEARSE_CUDA(cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) {
      throw std::runtime_error("the driver has no cuTensorMapEncodeTiled");
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  const CUtensorMapDataType type = shape.element == Element::kByte ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : shape.element == Element::kBf16
                                       ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const CUtensorMapSwizzle swizzle = shape.swizzle == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : shape.swizzle == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                     : shape.swizzle == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                                           : CU_TENSOR_MAP_SWIZZLE_NONE;
  const cuuint32_t steps[3] = {1, 1, 1};
  cuuint64_t size[3];
  cuuint64_t stride[2];
  cuuint32_t box[3];
  for (int i = 0; i < 3; ++i) size[i] = shape.size[i];
  for (int i = 0; i < 2; ++i) stride[i] = shape.stride[i];
  for (int i = 0; i < 3; ++i) box[i] = shape.box[i];
  CUtensorMap map;
  const CUresult result = encode(&map,
                                 type,
                                 3,
                                 const_cast<void*>(shape.base),
                                 size,
                                 stride,
                                 box,
                                 steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::invalid_argument("cuTensorMapEncodeTiled refuses a tensor of " +
                                std::to_string(size[0]) + " x " + std::to_string(size[1]) + " x " +
                                std::to_string(size[2]) + ", strides " + std::to_string(stride[0]) +
                                " and " + std::to_string(stride[1]) + " bytes: error " +
                                std::to_string(result));
  }
  TensorMap out;
  static_assert(sizeof(out) == sizeof(map));
  std::memcpy(&out, &map, sizeof(map));
  return out;
}

}  // namespace ptx
}  // namespace rehearse::kernels::gpu
