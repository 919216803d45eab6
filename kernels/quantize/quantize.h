#pragma once
// Values to codes and back on cores, with scales found online (DeepSeek-V3 report, section 3.3.2):
// the same codes and scales as kernels/fp8_cast/ makes on GPUs. Matrices are [rows, columns],
// row-major, of any size: the last tile of a row, or of a column, holds what is left.
//
//   1x128    a scale per row and 128 columns: activations and their gradients
//   128x1    a scale per column and 128 rows: what weight gradients multiply, along tokens
//   128x128  a scale per block: weights
//
// Scales of 1x128 are stored tile by tile, [ceil(columns / 128), stride], as products take them.
// NaN becomes NaN and does not enter a scale; an infinity makes its group's scale infinite, so that
// the group decodes to NaN.

#include <cstdint>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

struct ScaleRule {
  bool power_of_two = false;
  // Rows that share the scale of 128 columns: 1, or 128. What is stored is the same: each row has
  // an entry.
  int64_t rows = 1;
  bool operator==(const ScaleRule&) const = default;
};

// 1x128 of E4M3. codes: [rows, columns].
void quantize_rows(int64_t rows,
                   int64_t columns,
                   const float* x,
                   const ScaleRule& rule,
                   uint8_t* codes,
                   float* scales,
                   int64_t stride);
void quantize_rows(int64_t rows,
                   int64_t columns,
                   const Bf16* x,
                   const ScaleRule& rule,
                   uint8_t* codes,
                   float* scales,
                   int64_t stride);
void dequantize_rows(int64_t rows,
                     int64_t columns,
                     const uint8_t* codes,
                     const float* scales,
                     int64_t stride,
                     float* x);

// 128x1 of E4M3: values become what their codes stand for, times scales. rule.rows of 128: 128x128.
void round_columns(int64_t rows, int64_t columns, const ScaleRule& rule, float* x);
// The codes themselves, transposed: codes [columns, rows], scales [ceil(rows / 128), stride].
void quantize_columns(int64_t rows,
                      int64_t columns,
                      const float* x,
                      const ScaleRule& rule,
                      uint8_t* codes,
                      float* scales,
                      int64_t stride);

// 128x128 of E4M3. codes: [rows, columns]; scales: [ceil(rows / 128), ceil(columns / 128)].
void quantize_blocks(
    int64_t rows, int64_t columns, const Bf16* x, bool power_of_two, uint8_t* codes, float* scales);
// Of rows first to first + rows of it.
void dequantize_blocks(int64_t first,
                       int64_t rows,
                       int64_t columns,
                       const uint8_t* codes,
                       const float* scales,
                       float* x);

// 1x128 of E5M6, scales powers of two. Two codes lie in three bytes, the first one's twelve bits
// the lower ones; every row begins a byte of its own.
constexpr int64_t e5m6_bytes(int64_t columns) {
  return (3 * columns + 1) / 2;
}
void pack_e5m6(
    int64_t rows, int64_t columns, const float* x, uint8_t* packed, float* scales, int64_t stride);
void unpack_e5m6(int64_t rows,
                 int64_t columns,
                 const uint8_t* packed,
                 const float* scales,
                 int64_t stride,
                 float* x);

}  // namespace rehearse::kernels
