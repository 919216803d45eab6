#pragma once
// The kernels behind codes.h.

#include "kernels/layer_gpu/codes.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

inline constexpr float kLargestE5m6 = 65024.0f;

__device__ __forceinline__ uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
__device__ __forceinline__ float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// As to_e5m6 and from_e5m6 of kernels/formats/.
__device__ __forceinline__ uint32_t e5m6_code(float x) {
  if (x != x) return 0x7ff;
  const uint32_t bits = bits_of(x);
  const uint32_t sign = (bits >> 20) & 0x800;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= bits_of(kLargestE5m6)) return sign | 0x7bf;
  if (static_cast<int>(magnitude >> 23) - 127 < -14) {
    // Multiples of 2^-20: adding 2^23 leaves them, rounded to even, in the lowest bits.
    return sign | (bits_of(float_of(magnitude) * 0x1p20f + 0x1p23f) & 0x7f);
  }
  return sign | (((magnitude + 0xffff + ((magnitude >> 17) & 1)) >> 17) - (112u << 6));
}
__device__ __forceinline__ float e5m6_value(uint32_t code) {
  const uint32_t exponent = (code >> 6) & 31, mantissa = code & 63;
  const float sign = (code & 0x800) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) {
    return mantissa == 0 ? sign * float_of(0x7f800000u) : float_of(0x7fffffffu);
  }
  if (exponent == 0) return sign * (static_cast<float>(mantissa) * 0x1p-20f);
  return sign * float_of((exponent + 112) << 23 | mantissa << 17);
}

__device__ __forceinline__ uint8_t e4m3_code(float x) {
  return static_cast<uint8_t>(ptx::to_e4m3x2(x, 0));
}
__device__ __forceinline__ float e4m3_value(uint8_t code) {
  float value, none;
  ptx::from_e4m3x2(code, value, none);
  return value;
}

// Bytes of a row of codes of twelve bits; where its pair of columns stands.
__device__ __forceinline__ int64_t e5m6_row_bytes(int64_t columns) {
  return (3 * columns + 1) / 2;
}

// Whether rows of a block of 128 are an expert's: how many of them are, from its first.
__device__ __forceinline__ int rows_in_block(int64_t block, int64_t rows, const RowCounts& counts) {
  constexpr int kBlock = static_cast<int>(kRowsPadded);
  const auto cut = [](int64_t n) { return static_cast<int>(n < 0 ? 0 : n > kBlock ? kBlock : n); };
  if (counts.rows == nullptr) return cut(rows - block * kBlock);
  for (int e = 0; e < counts.experts; ++e) {
    const int64_t own = ptx::load_global(counts.rows + e);
    const int64_t blocks = (own + kBlock - 1) / kBlock;
    if (block < blocks) return cut(own - block * kBlock);
    block -= blocks;
  }
  return 0;
}

// A warp per row and tile: four columns a lane, neighbours, so that pairs stay together.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    encode_rows_kernel(const __grid_constant__ Arguments e) {
  const int columns = static_cast<int>(e.columns);
  const int tiles = (columns + kScaleBlock - 1) / kScaleBlock;
  const int task = ptx::block_index() * kRowWarps + ptx::thread_index() / 32;
  const int row = task / tiles, tile = task % tiles;
  if (row >= static_cast<int>(e.rows) || !is_row(row, e.counts)) return;
  const int lane = ptx::thread_index() % 32;
  const int first = tile * kScaleBlock + lane * 4;
  float x[4];
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[i] = first + i < columns ? load(e.x, int64_t{row} * columns + first + i) : 0;
    amax = ptx::max_magnitude(amax, x[i]);
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    amax = ptx::max_magnitude(amax, ptx::shuffle_xor(amax, mask));
  }
  const bool wide = e.format == CodeFormat::kE5m6;
  const float scale = wide ? (amax == 0 ? 1 : rounded_scale(amax / kLargestE5m6, true))
                           : e4m3_scale(amax, e.power_of_two);
  const float inverse = wide ? 1 / scale : e4m3_inverse(amax, scale, e.power_of_two);
  if (lane == 0) ptx::store_global(e.scales + tile * e.scale_stride + row, scale);
  if (!wide) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + i >= columns) continue;
      ptx::store_global(e.codes + int64_t{row} * columns + first + i, e4m3_code(x[i] * inverse));
    }
    return;
  }
  uint8_t* const to = e.codes + int64_t{row} * e5m6_row_bytes(columns);
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const int column = first + i;
    if (column >= columns) continue;
    const uint32_t both = e5m6_code(x[i] * inverse) |
                          (column + 1 < columns ? e5m6_code(x[i + 1] * inverse) << 12 : 0);
    const int bytes = column + 1 < columns ? 3 : 2;
    for (int b = 0; b < bytes; ++b) {
      ptx::store_global(to + column / 2 * 3 + b, static_cast<uint8_t>(both >> 8 * b));
    }
  }
}

// A block per 128 x 128 that share a scale.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    encode_squares_kernel(const __grid_constant__ Arguments e) {
  const int columns = static_cast<int>(e.columns);
  const int tiles = (columns + kScaleBlock - 1) / kScaleBlock;
  const int block = ptx::block_index() / tiles, tile = ptx::block_index() % tiles;
  const int rows = rows_in_block(block, e.rows, e.counts);
  if (rows == 0) return;
  const int first = tile * kScaleBlock;
  const int width = columns - first < kScaleBlock ? columns - first : kScaleBlock;
  const int64_t at = int64_t{block} * kScaleBlock;
  float amax = 0;
  for (int i = ptx::thread_index(); i < rows * width; i += kRowThreads) {
    amax = ptx::max_magnitude(amax, load(e.x, (at + i / width) * columns + first + i % width));
  }
  amax = max_over_block(amax);
  const float scale = e4m3_scale(amax, e.power_of_two);
  const float inverse = e4m3_inverse(amax, scale, e.power_of_two);
  for (int i = ptx::thread_index(); i < rows * width; i += kRowThreads) {
    const int64_t where = (at + i / width) * columns + first + i % width;
    ptx::store_global(e.codes + where, e4m3_code(load(e.x, where) * inverse));
  }
  if (e.format == CodeFormat::kBlocks) {
    if (ptx::thread_index() == 0) ptx::store_global(e.scales + block * tiles + tile, scale);
    return;
  }
  for (int i = ptx::thread_index(); i < rows; i += kRowThreads) {
    ptx::store_global(e.scales + tile * e.scale_stride + at + i, scale);
  }
}

// Rows of a block, one after the other.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) decode_kernel(const __grid_constant__ Arguments d) {
  const int columns = static_cast<int>(d.columns);
  const int tiles = (columns + kScaleBlock - 1) / kScaleBlock;
  const int begin = ptx::block_index() * kExpertRowsPerBlock;
  for (int row = begin; row < begin + kExpertRowsPerBlock && row < static_cast<int>(d.rows);
       ++row) {
    if (!is_row(row, d.counts)) continue;
    const int64_t at = int64_t{row} * columns;
    for (int c = ptx::thread_index(); c < columns; c += kRowThreads) {
      if (d.codes == nullptr) {
        store(d.y, at + c, load(d.x, at + c));
        continue;
      }
      const int tile = c / kScaleBlock;
      const int64_t of = d.format == CodeFormat::kBlocks ? int64_t{row / kScaleBlock} * tiles + tile
                                                         : tile * d.scale_stride + row;
      const float scale = ptx::load_global(d.scales + of);
      if (d.format != CodeFormat::kE5m6) {
        store(d.y, at + c, e4m3_value(ptx::load_global(d.codes + at + c)) * scale);
        continue;
      }
      const uint8_t* const from = d.codes + row * e5m6_row_bytes(columns) + c / 2 * 3;
      const uint32_t low = ptx::load_global(from + c % 2),
                     high = ptx::load_global(from + 1 + c % 2);
      const uint32_t code = c % 2 == 0 ? low | (high & 15) << 8 : low >> 4 | high << 4;
      store(d.y, at + c, e5m6_value(code) * scale);
    }
  }
}

// A block per 128 rows and 128 columns, a thread per column.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    round_columns_kernel(const __grid_constant__ Arguments r) {
  const int columns = static_cast<int>(r.columns);
  const int tiles = (columns + kScaleBlock - 1) / kScaleBlock;
  const int block = ptx::block_index() / tiles, tile = ptx::block_index() % tiles;
  const int rows = rows_in_block(block, r.rows, r.counts);
  if (rows == 0) return;
  const int column = tile * kScaleBlock + ptx::thread_index();
  const bool own = ptx::thread_index() < kScaleBlock && column < columns;
  float* const x = r.x + int64_t{block} * kScaleBlock * columns + column;
  float amax = 0;
  for (int i = 0; i < rows && own; ++i) {
    amax = ptx::max_magnitude(amax, ptx::load_own(x + int64_t{i} * columns));
  }
  if (r.shared) amax = max_over_block(amax);
  if (!own) return;
  const float scale = e4m3_scale(amax, r.power_of_two);
  const float inverse = e4m3_inverse(amax, scale, r.power_of_two);
  for (int i = 0; i < rows; ++i) {
    float* const at = x + int64_t{i} * columns;
    ptx::store_global(at, e4m3_value(e4m3_code(ptx::load_own(at) * inverse)) * scale);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
