#pragma once
// Products of FP8 matrices with scales per block (DeepSeek-V3 report, section 3.3.2): the forward
// product and the input gradient of every Linear, dense or one per expert, and weight gradients.
//
// Operands are E4M3 codes times FP32 scales. 1x128: one scale per row and 128 elements along the
// contraction, stored contraction block by contraction block, [ceil(k / 128), stride] with stride
// >= rows and a multiple of 4. 128x128: one scale per block of weights, [ceil(n / 128),
// ceil(k / 128)] row-major.
//
// Every 128 elements of the contraction the tensor cores' sum (about 14 bits) moves to FP32:
//   sum = fma(block, scale_a * scale_b, sum), blocks in ascending order.
// So results are the same bits at every run and whatever the number of SMs.
//
// Experts: rows[g] is group g's number of rows, on the device, known to nobody else. Groups lie one
// after the other, each padded to a multiple of 128 rows; a group may be empty.

#include <cstdint>

#include "kernels/formats/formats.h"
#include "kernels/fp8_gemm/choose_shape.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// y[m, n] = x[m, k] w[g][n, k]^T, g the group of the row.
struct Fp8Product {
  const uint8_t* x = nullptr;       // [m, k] row-major, k a multiple of 16
  const float* x_scales = nullptr;  // 1x128: [ceil(k / 128), x_scale_stride]
  int64_t x_scale_stride = 0;
  const uint8_t* w = nullptr;       // [groups, n, k]
  const float* w_scales = nullptr;  // 128x128: [groups, ceil(n / 128), ceil(k / 128)]
  Bf16* y = nullptr;                // [m, n], n a multiple of 8
  int64_t m = 0;                    // with rows: room for all groups, padded
  int64_t n = 0, k = 0;
  int groups = 1;
  const int32_t* rows = nullptr;  // [groups]; null: dense, one group of m rows
  int sms = 132;                  // SMs to use
};

// dw[g][m, n] += dy[m, tokens of g] x[n, tokens of g]^T: both operands transposed, tokens
// contiguous, 1x128 scales along tokens. Padding tokens must hold zeros (kernels/fp8_cast/).
struct Fp8WeightGradient {
  const uint8_t* dy = nullptr;       // [m, tokens]
  const float* dy_scales = nullptr;  // [tokens / 128, dy_scale_stride]
  int64_t dy_scale_stride = 0;
  const uint8_t* x = nullptr;  // [n, tokens]
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  float* dw = nullptr;  // [groups, m, n], n a multiple of 4; added to
  int64_t m = 0, n = 0;
  int64_t tokens = 0;  // a multiple of 16; with rows: room for all groups, padded
  int groups = 1;
  const int32_t* rows = nullptr;  // [groups]; null: one group of all tokens
  int sms = 132;
};

// Start the kernel, with the tile shape of choose_shape or one of those that it chooses from. Throw
// std::invalid_argument, naming what is wrong, before anything is started.
namespace gpu {
void fp8_gemm(const Fp8Product& p, const TileShape& shape, Stream stream);
void fp8_weight_gradient(const Fp8WeightGradient& p, const TileShape& shape, Stream stream);
}  // namespace gpu
namespace imitated {
void fp8_gemm(const Fp8Product& p, const TileShape& shape, Stream stream);
void fp8_weight_gradient(const Fp8WeightGradient& p, const TileShape& shape, Stream stream);
}  // namespace imitated

// How a sum of 128 products is made on the CPU: exactly (they fit a double), or as the model of
// Hopper's tensor cores has it (kernels/formats/tensor_core.h).
enum class BlockSums { kExact, kTensorCore };

// The same on the CPU; pointers are the host's. All of it, or one element before it is rounded to
// BF16 (of group g; row counts from y's first), or one element that is added to dw[g].
void fp8_gemm_reference(const Fp8Product& p, BlockSums sums);
void fp8_weight_gradient_reference(const Fp8WeightGradient& p, BlockSums sums);
float fp8_gemm_element(const Fp8Product& p, int g, int64_t row, int64_t column, BlockSums sums);
float fp8_weight_gradient_element(
    const Fp8WeightGradient& p, int g, int64_t row, int64_t column, BlockSums sums);

// How far an element may be from the exact one, by what is known of the tensor cores: every product
// and sum that an instruction adds is cut off at most 2^-13 below the largest of them.
struct ElementError {
  double bound = 0;     // if every cut were as large as it can be
  double variance = 0;  // of cuts that are independent and anything up to that
};
ElementError fp8_gemm_error(const Fp8Product& p, int g, int64_t row, int64_t column);
ElementError fp8_weight_gradient_error(const Fp8WeightGradient& p,
                                       int g,
                                       int64_t row,
                                       int64_t column);

}  // namespace rehearse::kernels
