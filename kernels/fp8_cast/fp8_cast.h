#pragma once
// Casts to FP8 with scales found online (DeepSeek-V3 report, section 3.3.2): codes and scales as
// the products of kernels/fp8_gemm/ take them. scale = amax / 448 of the group (e4m3_scale in
// kernels/formats/), nothing is clamped: gradients of 1e-9 keep their precision.
//
// Groups of rows, as of experts: rows[g] rows each, one group after the other, padded to multiples
// of 128. Padding is written as zeros with scale 1 whatever the input holds there, and not read;
// what lies behind the last group is left alone.
//
// NaN becomes NaN and does not enter amax; an infinity makes its group's scale infinite, so that
// the group decodes to NaN.

#include <cstdint>

#include "kernels/formats/formats.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// 1x128: codes[m, k] of x[m, k], a scale per row and 128 columns.
struct CastRows {
  const Bf16* x = nullptr;  // [m, k] row-major, k a multiple of 16
  uint8_t* codes = nullptr;
  float* scales = nullptr;  // [ceil(k / 128), scale_stride]
  int64_t scale_stride = 0;
  int64_t m = 0, k = 0;
  bool power_of_two = false;
  int groups = 1;
  const int32_t* rows = nullptr;  // [groups], or null: m rows
};

// 128x1, transposed: codes[k, tokens] of x[tokens, k], a scale per column and 128 tokens. x is
// BF16, or what CastRows made of it, which is decoded first.
struct CastColumns {
  const Bf16* x = nullptr;  // [tokens, k], k and tokens multiples of 16; or null, and:
  const uint8_t* x_codes = nullptr;
  const float* x_scales = nullptr;  // [ceil(k / 128), x_scale_stride]
  int64_t x_scale_stride = 0;
  uint8_t* codes = nullptr;
  float* scales = nullptr;  // [ceil(tokens / 128), scale_stride]
  int64_t scale_stride = 0;
  int64_t tokens = 0, k = 0;
  bool power_of_two = false;
  int groups = 1;
  const int32_t* rows = nullptr;  // [groups], or null: all tokens
};

// 128x128: codes[matrices, n, k] of weights w and, if wanted, codes of the transposed matrices,
// with a scale per block.
struct CastBlocks {
  const float* w = nullptr;  // [matrices, n, k], n and k multiples of 16
  uint8_t* codes = nullptr;
  float* scales = nullptr;              // [matrices, ceil(n / 128), ceil(k / 128)]
  uint8_t* transposed_codes = nullptr;  // [matrices, k, n], or null
  float* transposed_scales = nullptr;   // [matrices, ceil(k / 128), ceil(n / 128)]
  int64_t matrices = 1, n = 0, k = 0;
  bool power_of_two = false;
};

// All throw std::invalid_argument, naming what is wrong, before anything is started.
namespace gpu {
void cast_rows(const CastRows& c, Stream stream);
void cast_columns(const CastColumns& c, Stream stream);
void cast_blocks(const CastBlocks& c, Stream stream);
}  // namespace gpu
namespace imitated {
void cast_rows(const CastRows& c, Stream stream);
void cast_columns(const CastColumns& c, Stream stream);
void cast_blocks(const CastBlocks& c, Stream stream);
}  // namespace imitated

// The same on the CPU, to the bit. Pointers are the host's.
void cast_rows_reference(const CastRows& c);
void cast_columns_reference(const CastColumns& c);
void cast_blocks_reference(const CastBlocks& c);

}  // namespace rehearse::kernels
