#pragma once
// The kernel behind product.

#include "kernels/layer_gpu/product.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

inline constexpr int kProductTile = 32;               // of c both ways, and of the contraction
inline constexpr int kProductRow = kProductTile + 1;  // words: columns of a tile lie in other banks
inline constexpr int kProductShared = 2 * kProductTile * kProductRow * 4;

// Where an expert's rows begin, and how many there are.
struct ExpertRange {
  int expert;
  int64_t first, rows;
};
// The expert of a row, or none's: rows 0.
__device__ __forceinline__ ExpertRange range_of_row(int64_t row, const RowCounts& counts) {
  int64_t first = 0;
  for (int e = 0; e < counts.experts; ++e) {
    const int64_t own = ptx::load_global(counts.rows + e);
    const int64_t padded = (own + kRowsPadded - 1) / kRowsPadded * kRowsPadded;
    if (row < first + padded) return {e, first, own};
    first += padded;
  }
  return {0, row, 0};
}
__device__ __forceinline__ ExpertRange range_of_expert(int expert, const RowCounts& counts) {
  int64_t first = 0;
  for (int e = 0; e < expert; ++e) {
    const int64_t own = ptx::load_global(counts.rows + e);
    first += (own + kRowsPadded - 1) / kRowsPadded * kRowsPadded;
  }
  return {expert, first, ptx::load_global(counts.rows + expert)};
}

// A block: a tile of c; a thread two by two elements. Sums run in the order of k.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) product_kernel(const __grid_constant__ Arguments p) {
  const int64_t across = (p.n + kProductTile - 1) / kProductTile;
  const int64_t down = (p.m + kProductTile - 1) / kProductTile;
  const int64_t tile = ptx::block_index() % (across * down);
  const int64_t row0 = tile / across * kProductTile;
  const int64_t column0 = tile % across * kProductTile;
  int64_t rows_end = p.m;
  int64_t k_begin = 0;
  int64_t k_end = p.k;
  GpuOperand b = p.b;
  float* c = p.c.fp32;
  if (p.c_of != nullptr) {
    const int expert = static_cast<int>(ptx::block_index() / (across * down));
    const ExpertRange range = range_of_expert(expert, p.counts);
    k_begin = range.first;
    k_end = range.first + range.rows;
    c = ptx::load_global(p.c_of + expert);
  } else if (p.counts.rows != nullptr) {
    const ExpertRange range = range_of_row(row0, p.counts);
    rows_end = range.first + range.rows;
    if (row0 >= rows_end) return;
    if (p.b_fp32_of != nullptr) b.values.fp32 = ptx::load_global(p.b_fp32_of + range.expert);
    if (p.b_bf16_of != nullptr) b.values.bf16 = ptx::load_global(p.b_bf16_of + range.expert);
  }
  if (k_begin == k_end && p.add) return;  // nothing to add

  const uint32_t of_a = ptx::shared_base();
  const uint32_t of_b = of_a + kProductTile * kProductRow * 4;
  const int thread = ptx::thread_index();
  const int own_row = thread / 16 * 2;
  const int own_column = thread % 16 * 2;
  float sums[2][2] = {};
  for (int64_t k0 = k_begin; k0 < k_end; k0 += kProductTile) {
    for (int i = thread; i < kProductTile * kProductTile; i += kRowThreads) {
      // Neighbouring threads read neighbouring places, whichever way the matrix stands.
      const auto fill = [&](const GpuOperand& x, int64_t first, int64_t end, uint32_t to) {
        const bool along_k = x.k_stride == 1;
        const int row = along_k ? i / kProductTile : i % kProductTile;
        const int k = along_k ? i % kProductTile : i / kProductTile;
        const bool inside = first + row < end && k0 + k < k_end;
        const float value =
            inside ? load(x.values, (first + row) * x.row_stride + (k0 + k) * x.k_stride) : 0;
        ptx::store_shared(to + static_cast<uint32_t>(k * kProductRow + row) * 4, value);
      };
      fill(p.a, row0, rows_end, of_a);
      fill(b, column0, p.n, of_b);
    }
    ptx::sync_block();
    const int depth = static_cast<int>(k_end - k0 < kProductTile ? k_end - k0 : kProductTile);
    for (int k = 0; k < depth; ++k) {
      float x[2], y[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        x[i] = ptx::load_shared<float>(of_a +
                                       static_cast<uint32_t>(k * kProductRow + own_row + i) * 4);
        y[i] = ptx::load_shared<float>(of_b +
                                       static_cast<uint32_t>(k * kProductRow + own_column + i) * 4);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) sums[i][j] = ptx::multiply_add(x[i], y[j], sums[i][j]);
      }
    }
    ptx::sync_block();
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const int64_t row = row0 + own_row + i;
      const int64_t column = column0 + own_column + j;
      if (row >= rows_end || column >= p.n) continue;
      const int64_t at = row * p.n + column;
      float sum = sums[i][j];
      if (there(p.addend)) sum += load(p.addend, at);
      if (p.add) {
        ptx::store_global(c + at, ptx::load_own(c + at) + sum);
      } else {
        store(p.c, at, sum);
      }
    }
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
