#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <cuda.h>

#include "kernels/ptx/gpu/hang.cuh"
#include "kernels/ptx/gpu/launch.cuh"
#include "kernels/ptx/label.h"

namespace rehearse::kernels::gpu {

void check_cuda(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what + ": " +
                           cudaGetErrorString(error));
}

#ifdef REHEARSE_TRAP_HANGS
namespace {
Hang* hang = nullptr;  // in the host's memory, never freed: kernels may still write it
std::vector<const void*>& hang_pointers() {
  static std::vector<const void*> list;
  return list;
}
}  // namespace

HangPointer::HangPointer(const void* symbol) {
  hang_pointers().push_back(symbol);
}

void watch_for_hangs() {
  if (hang) return;
  REHEARSE_CUDA(cudaHostAlloc(&hang, sizeof(*hang), cudaHostAllocMapped));
  *hang = {};
  Hang* on_device = nullptr;
  REHEARSE_CUDA(cudaHostGetDevicePointer(&on_device, hang, 0));
  for (const void* symbol : hang_pointers()) {
    REHEARSE_CUDA(cudaMemcpyToSymbol(symbol, &on_device, sizeof(on_device)));
  }
}

std::string describe_hang() {
  if (!hang || hang->claimed == 0) return "";
  return "hangs: block " + std::to_string(hang->block) + ", warp " +
         std::to_string(hang->thread / 32) + " (thread " + std::to_string(hang->thread) +
         ") waited over " + std::to_string(kHangNanoseconds / 1'000'000'000) +
         " s for the phase of parity " + std::to_string(hang->parity) + " of mbarrier '" +
         label_text(hang->barrier) + "' at shared address " + std::to_string(hang->address);
}
#else
void watch_for_hangs() {}
std::string describe_hang() {
  return "";
}
#endif

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
