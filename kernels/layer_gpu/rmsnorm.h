#pragma once
// RMSNorm on a GPU (kernels/rmsnorm/ says what it is): forward, and its two gradients.

#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// y = x / sqrt(mean(x^2) + eps) gain, of the first `width` columns of x.
struct GpuRmsNorm {
  ConstValues x;             // [rows, x_stride]
  ConstValues gain;          // [width]
  Values y;                  // [rows, width]
  float* inverse = nullptr;  // [rows], one over the root
  int64_t rows = 0, width = 0;
  int64_t x_stride = 0;  // elements, at least width
  float eps = 0;
};

// dx = addend + the gradient of x, of those columns; d_gain += the gain's, over rows in a fixed
// order.
struct GpuRmsNormBackward {
  ConstValues dy;    // [rows, width]
  ConstValues x;     // [rows, x_stride]
  ConstValues gain;  // [width]
  const float* inverse = nullptr;
  ConstValues addend;        // [rows, x_stride], or nothing
  Values dx;                 // [rows, x_stride]
  float* partial = nullptr;  // [rmsnorm_chunks(rows), width], scratch
  float* d_gain = nullptr;   // [width], added to
  int64_t rows = 0, width = 0;
  int64_t x_stride = 0;
};
inline constexpr int64_t kRmsNormChunk = 64;  // rows whose share of d_gain one sum is
inline int64_t rmsnorm_chunks(int64_t rows) {
  return (rows + kRmsNormChunk - 1) / kRmsNormChunk;
}

// Throw std::invalid_argument, naming what is wrong, before anything is started. No rows: nothing
// is.
namespace gpu {
void rmsnorm(const GpuRmsNorm& n, Stream stream);
void rmsnorm_backward(const GpuRmsNormBackward& n, Stream stream);
}  // namespace gpu
namespace imitated {
void rmsnorm(const GpuRmsNorm& n, Stream stream);
void rmsnorm_backward(const GpuRmsNormBackward& n, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
