#pragma once
// Plain products on a GPU, in FP32 with sums in the order of the contraction: dense, where no
// library's is at hand, and of experts, whose numbers of rows the device alone knows.

#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// A matrix as a product reads it: element (row, k) stands at row * row_stride + k * k_stride, so
// that either side may be a transposed one.
struct GpuOperand {
  ConstValues values;
  int64_t row_stride = 0, k_stride = 1;
};

// c[i, j] = (addend[i, j] +) the sum over k of a(i, k) b(j, k); or added to c.
//
// Of experts, one of two: rows of a and c are experts' (counts), and b is one of b_of; or the
// contraction runs over an expert's rows, and c is one of c_of.
struct GpuProduct {
  GpuOperand a, b;
  int64_t m = 0, n = 0, k = 0;  // of experts' rows m, or k, is the room for all
  Values c;                     // [m, n]
  ConstValues addend;           // [m, n], or nothing
  bool add = false;             // to c, which is FP32 then
  RowCounts counts;
  const float* const* b_fp32_of = nullptr;  // [experts], on the device
  const Bf16* const* b_bf16_of = nullptr;
  float* const* c_of = nullptr;  // [experts], added to
};

// Throws std::invalid_argument, naming what is wrong, before anything is started. Of nothing:
// nothing is.
namespace gpu {
void product(const GpuProduct& p, Stream stream);
}  // namespace gpu
namespace imitated {
void product(const GpuProduct& p, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
