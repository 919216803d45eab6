#pragma once
// Products of E4M3 matrices as tensor cores make them, on cores, with any number of bits in the
// accumulator and any interval between promotions to FP32: what training on a Hopper GPU computes,
// and what it would with less care (DeepSeek-V3 report, section 3.3.2 and appendix B).
//
// Slow: each sum of 32 is made number by number. kernels/formats/tensor_core.h is the model.

#include <cstdint>

#include "kernels/formats/tensor_core.h"

namespace rehearse::kernels {

struct Accumulation {
  int bits = kAccumulatorBits;  // of mantissa, 1 to 16
  // Products between two promotions of the tensor core's sum to FP32, a multiple of 32; 0: the sum
  // stays there to its end.
  //
  // Up to 128 the sum of codes is scaled where it is promoted: sum = fma(part, scales, sum).
  // Beyond, where scales change under way, the accumulator holds scaled values: it is brought to
  // the next block's scales, and cut off to its bits, before that block's products come. With
  // powers of two that is exact, and what hardware with scales in its tensor cores does.
  int64_t promotion = 128;
  bool operator==(const Accumulation&) const = default;
};

// Rows of codes, [rows, k], with their scales: of row r and block b of 128 along k,
// scales[(r / scale_rows) * row_step + b * block_step].
struct ScaledCodes {
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;
  int64_t rows = 0;
  int64_t row_step = 1, block_step = 0;
  int64_t scale_rows = 1;  // 128 of weights

  // 1x128, stored [blocks, stride].
  static ScaledCodes of_tiles(int64_t rows,
                              const uint8_t* codes,
                              const float* scales,
                              int64_t stride) {
    return {codes, scales, rows, 1, stride, 1};
  }
  // 128x128 of [rows, k].
  static ScaledCodes of_blocks(int64_t rows, int64_t k, const uint8_t* codes, const float* scales) {
    return {codes, scales, rows, (k + 127) / 128, 1, 128};
  }
};

// y[i, j] = (or +=) the sum over k of a[i, k] b[j, k]; y: [a.rows, b.rows]. REQUIRES: bits and
// promotion as above.
void fp8_product(int64_t k,
                 const ScaledCodes& a,
                 const ScaledCodes& b,
                 const Accumulation& how,
                 bool add,
                 float* y);

}  // namespace rehearse::kernels
