#pragma once
// The kernels behind cast_rows, cast_columns and cast_blocks. All are limited by memory: every
// thread has several 16-byte loads under way, and what leaves transposed goes through shared
// memory, so that full lines are written.

#include "kernels/fp8_cast/fp8_cast.h"
#include "kernels/ptx/ptx.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

inline constexpr int kCastThreads = 256;

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Packed {
  T values[kCount];
};
using Eight = float[8];

__device__ __forceinline__ float bf16_value(uint32_t bits) {
  bits <<= 16;
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

__device__ __forceinline__ void load_eight(const Bf16* p, Eight& x) {
  const auto words = ptx::load_global(reinterpret_cast<const Packed<uint32_t, 4>*>(p));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = bf16_value(words.values[i] & 0xffff);
    x[2 * i + 1] = bf16_value(words.values[i] >> 16);
  }
}

__device__ __forceinline__ void load_eight(const float* p, Eight& x) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const auto words = ptx::load_global(reinterpret_cast<const Packed<float, 4>*>(p) + h);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[4 * h + i] = words.values[i];
  }
}

// Codes that share a scale.
__device__ __forceinline__ void load_eight(const uint8_t* p, float scale, Eight& x) {
  const auto words = ptx::load_global(reinterpret_cast<const Packed<uint32_t, 2>*>(p));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto two = static_cast<uint16_t>(words.values[i / 2] >> (16 * (i % 2)));
    ptx::from_e4m3x2(two, x[2 * i], x[2 * i + 1]);
    x[2 * i] *= scale;
    x[2 * i + 1] *= scale;
  }
}

__device__ __forceinline__ uint32_t four_codes(float a, float b, float c, float d) {
  return ptx::to_e4m3x2(a, b) | static_cast<uint32_t>(ptx::to_e4m3x2(c, d)) << 16;
}

// The rows of a block of 128 that hold values and that are to be written, counted from its first.
struct BlockRows {
  int values;
  int written;
};

__device__ __forceinline__ BlockRows rows_of_block(int64_t block,
                                                   const int32_t* rows,
                                                   int groups,
                                                   int64_t all) {
  const auto cut = [](int64_t n) { return static_cast<int>(n < 0 ? 0 : n > 128 ? 128 : n); };
  if (!rows) return {cut(all - block * 128), cut(all - block * 128)};
  for (int g = 0; g < groups; ++g) {
    const int64_t count = ptx::load_global(rows + g);
    const int64_t blocks = (count + 127) / 128;
    if (block < blocks) return {cut(count - block * 128), 128};
    block -= blocks;
  }
  return {0, 0};
}

// A warp: 8 rows of one column block, half a warp per row, 8 columns and 4 rows per lane.
template <class Arguments>
__global__ void __launch_bounds__(kCastThreads)
    cast_rows_kernel(const __grid_constant__ Arguments c) {
  const int lane = ptx::thread_index() % 32;
  const int blocks = static_cast<int>((c.k + 127) / 128);
  const int task = ptx::block_index() * (kCastThreads / 32) + ptx::thread_index() / 32;
  const int row_task = task / blocks;
  const int column_block = task - row_task * blocks;
  const int64_t row0 = int64_t{row_task} * 8;
  if (row0 >= c.m) return;
  const BlockRows limit = rows_of_block(row0 / 128, c.rows, c.groups, c.m);
  const int64_t column = int64_t{column_block} * 128 + lane % 16 * 8;
  const auto row_of = [&](int i) { return row0 + 2 * i + lane / 16; };
  Eight x[4];
  float amax[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row_of(i) % 128 < limit.values && column < c.k) {
      load_eight(c.x + row_of(i) * c.k + column, x[i]);
    } else {
#pragma unroll
      for (float& v : x[i]) v = 0;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (const float v : x[i]) amax[i] = ptx::max_magnitude(amax[i], v);
  }
  // The 16 lanes of a row share out its 4 rows, so that each lane makes one scale, that of row
  // `own`: halves of the lanes keep halves of the rows, twice.
  const bool high = lane & 8;
  const bool odd = lane & 4;
  const int own = 2 * high + odd;
  const float low2 = ptx::shuffle_xor(high ? amax[0] : amax[2], 8);
  const float high2 = ptx::shuffle_xor(high ? amax[1] : amax[3], 8);
  const float even = ptx::max_magnitude(high ? amax[2] : amax[0], low2);
  const float uneven = ptx::max_magnitude(high ? amax[3] : amax[1], high2);
  float mine = ptx::max_magnitude(odd ? uneven : even, ptx::shuffle_xor(odd ? even : uneven, 4));
  mine = ptx::max_magnitude(mine, ptx::shuffle_xor(mine, 2));
  mine = ptx::max_magnitude(mine, ptx::shuffle_xor(mine, 1));
  const float scale = e4m3_scale(mine, c.power_of_two);
  const float inverse = e4m3_inverse(mine, scale, c.power_of_two);
  if (lane % 4 == 0 && row_of(own) % 128 < limit.written) {
    ptx::store_global(c.scales + column_block * c.scale_stride + row_of(own), scale);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float f = ptx::shuffle(inverse, (lane & 16) | i * 4);
    if (row_of(i) % 128 >= limit.written || column >= c.k) continue;
    const Packed<uint32_t, 2> codes{
        {four_codes(x[i][0] * f, x[i][1] * f, x[i][2] * f, x[i][3] * f),
         four_codes(x[i][4] * f, x[i][5] * f, x[i][6] * f, x[i][7] * f)}};
    ptx::store_global(reinterpret_cast<Packed<uint32_t, 2>*>(c.codes + row_of(i) * c.k + column),
                      codes);
  }
}

// Codes on their way out transposed: columns of 128 bytes, a word per 4 rows, 16-byte chunks
// swizzled so that neither side meets a bank twice.
__device__ __forceinline__ uint32_t transposed_word(uint32_t base, int column, int row) {
  return base + static_cast<uint32_t>(column * 128 + ((row / 16) ^ (column / 8 % 8)) * 16 +
                                      row / 4 % 4 * 4);
}

// Writes columns [0, kColumns) of 128 rows each as rows of `to`.
template <int kColumns>
__device__ __forceinline__ void write_transposed(
    uint32_t base, uint8_t* to, int64_t stride, int64_t columns, int rows) {
  for (int i = ptx::thread_index(); i < kColumns * 8; i += kCastThreads) {
    const int column = i / 8;
    const int row = i % 8 * 16;
    if (column >= columns || row >= rows) continue;
    const auto chunk = ptx::load_shared<Packed<uint32_t, 4>>(transposed_word(base, column, row));
    ptx::store_global(reinterpret_cast<Packed<uint32_t, 4>*>(to + column * stride + row), chunk);
  }
}

// A block: 128 tokens of 64 columns, a thread 4 tokens of 8 columns.
inline constexpr int kCastColumns = 64;
inline constexpr int kCastColumnsShared = kCastColumns * 128 + 9 * kCastColumns * 4;

template <class Arguments>
__global__ void __launch_bounds__(kCastThreads)
    cast_columns_kernel(const __grid_constant__ Arguments c) {
  const int thread = ptx::thread_index();
  const int warp = thread / 32;
  const int across = static_cast<int>((c.k + kCastColumns - 1) / kCastColumns);
  const int token_block = ptx::block_index() / across;
  const int64_t column0 = int64_t{ptx::block_index() - token_block * across} * kCastColumns;
  const int64_t token0 = int64_t{token_block} * 128;
  const BlockRows limit = rows_of_block(token_block, c.rows, c.groups, c.tokens);
  if (limit.written == 0) return;
  const int row = thread / 8 * 4;
  const int own = thread % 8 * 8;
  const int64_t column = column0 + own;

  Eight x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (row + i < limit.values && column < c.k) {
      const int64_t at = (token0 + row + i) * c.k + column;
      if (c.x) {
        load_eight(c.x + at, x[i]);
      } else {
        const float scale =
            ptx::load_global(c.x_scales + column / 128 * c.x_scale_stride + token0 + row + i);
        load_eight(c.x_codes + at, scale, x[i]);
      }
    } else {
#pragma unroll
      for (float& v : x[i]) v = 0;
    }
  }

  const uint32_t codes = ptx::shared_base();
  const uint32_t partial = codes + kCastColumns * 128;      // [8 warps, columns] amax
  const uint32_t inverse = partial + 8 * kCastColumns * 4;  // [columns]
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float amax = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) amax = ptx::max_magnitude(amax, x[i][j]);
    amax = ptx::max_magnitude(amax, ptx::shuffle_xor(amax, 8));
    amax = ptx::max_magnitude(amax, ptx::shuffle_xor(amax, 16));
    if (thread % 32 < 8) ptx::store_shared(partial + (warp * kCastColumns + own + j) * 4, amax);
  }
  ptx::sync_block();
  if (thread < kCastColumns) {
    float amax = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) {
      amax = ptx::max_magnitude(amax,
                                ptx::load_shared<float>(partial + (w * kCastColumns + thread) * 4));
    }
    const float scale = e4m3_scale(amax, c.power_of_two);
    ptx::store_shared(inverse + thread * 4, e4m3_inverse(amax, scale, c.power_of_two));
    if (column0 + thread < c.k) {
      ptx::store_global(c.scales + token_block * c.scale_stride + column0 + thread, scale);
    }
  }
  ptx::sync_block();
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float f = ptx::load_shared<float>(inverse + (own + j) * 4);
    ptx::store_shared(transposed_word(codes, own + j, row),
                      four_codes(x[0][j] * f, x[1][j] * f, x[2][j] * f, x[3][j] * f));
  }
  ptx::sync_block();
  write_transposed<kCastColumns>(
      codes, c.codes + column0 * c.tokens + token0, c.tokens, c.k - column0, limit.written);
}

// A block: 128 x 128 weights, a thread 8 columns of rows 4 t / 16 to + 3 and the same 64 below.
inline constexpr int kCastBlocksShared = 128 * 128 + 8 * 4;

template <class Arguments>
__global__ void __launch_bounds__(kCastThreads)
    cast_blocks_kernel(const __grid_constant__ Arguments c) {
  const int thread = ptx::thread_index();
  const int down = static_cast<int>((c.n + 127) / 128);
  const int across = static_cast<int>((c.k + 127) / 128);
  const int64_t matrix = ptx::block_index() / (down * across);
  const int block = ptx::block_index() % (down * across);
  const int64_t row0 = int64_t{block / across} * 128;
  const int64_t column0 = int64_t{block % across} * 128;
  const int own = thread % 16 * 8;
  const int64_t column = column0 + own;
  const auto row_of = [&](int i) { return thread / 16 * 4 + i / 4 * 64 + i % 4; };
  const int rows = static_cast<int>(c.n - row0 < 128 ? c.n - row0 : 128);

  Eight x[8];
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (row_of(i) < rows && column < c.k) {
      load_eight(c.w + (matrix * c.n + row0 + row_of(i)) * c.k + column, x[i]);
    } else {
#pragma unroll
      for (float& v : x[i]) v = 0;
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (const float v : x[i]) amax = ptx::max_magnitude(amax, v);
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    amax = ptx::max_magnitude(amax, ptx::shuffle_xor(amax, mask));
  }
  const uint32_t codes = ptx::shared_base();
  const uint32_t partial = codes + 128 * 128;  // [8 warps]
  if (thread % 32 == 0) ptx::store_shared(partial + thread / 32 * 4, amax);
  ptx::sync_block();
#pragma unroll
  for (int w = 0; w < 8; ++w) {
    amax = ptx::max_magnitude(amax, ptx::load_shared<float>(partial + w * 4));
  }
  const float scale = e4m3_scale(amax, c.power_of_two);
  const float f = e4m3_inverse(amax, scale, c.power_of_two);
  if (thread == 0) {
    const int64_t first = matrix * down * across;
    ptx::store_global(c.scales + first + block, scale);
    if (c.transposed_codes) {
      ptx::store_global(c.transposed_scales + first + block % across * down + block / across,
                        scale);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (float& v : x[i]) v *= f;
    if (row_of(i) < rows && column < c.k) {
      const Packed<uint32_t, 2> eight{{four_codes(x[i][0], x[i][1], x[i][2], x[i][3]),
                                       four_codes(x[i][4], x[i][5], x[i][6], x[i][7])}};
      ptx::store_global(reinterpret_cast<Packed<uint32_t, 2>*>(
                            c.codes + (matrix * c.n + row0 + row_of(i)) * c.k + column),
                        eight);
    }
  }
  if (!c.transposed_codes) return;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    ptx::store_shared(transposed_word(codes, own + j, row_of(0)),
                      four_codes(x[0][j], x[1][j], x[2][j], x[3][j]));
    ptx::store_shared(transposed_word(codes, own + j, row_of(4)),
                      four_codes(x[4][j], x[5][j], x[6][j], x[7][j]));
  }
  ptx::sync_block();
  write_transposed<128>(
      codes, c.transposed_codes + (matrix * c.k + column0) * c.n + row0, c.n, c.k - column0, rows);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
