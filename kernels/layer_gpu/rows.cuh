#pragma once
// The frame of kernels that go over rows: a block per row, its threads over the columns, and sums
// and maxima over the row in a fixed order, so that every run gives the same bits.

#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/ptx.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

inline constexpr int kRowThreads = 256;
inline constexpr int kRowWarps = kRowThreads / 32;
inline constexpr int kRowShared = kRowWarps * 4;  // bytes of a reduction
// Of experts, many of which may be padding or room: rows of one block, one after the other.
inline constexpr int kExpertRowsPerBlock = 8;

__device__ __forceinline__ bool there(const ConstValues& v) {
  return v.fp32 != nullptr || v.bf16 != nullptr;
}

__device__ __forceinline__ float load(const ConstValues& v, int64_t at) {
  if (v.fp32 != nullptr) return ptx::load_global(v.fp32 + at);
  const uint32_t bits = uint32_t{ptx::load_global(reinterpret_cast<const uint16_t*>(v.bf16) + at)}
                        << 16;
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

__device__ __forceinline__ void store(const Values& v, int64_t at, float x) {
  if (v.fp32 != nullptr) return ptx::store_global(v.fp32 + at, x);
  ptx::store_global(reinterpret_cast<uint16_t*>(v.bf16) + at,
                    static_cast<uint16_t>(ptx::to_bf16x2(x, 0)));
}

// Whether a row is an expert's, and no padding; all threads of a block ask for the same one.
__device__ __forceinline__ bool is_row(int64_t row, const RowCounts& counts) {
  if (counts.rows == nullptr) return true;
  for (int e = 0; e < counts.experts; ++e) {
    const int64_t own = ptx::load_global(counts.rows + e);
    const int64_t padded = (own + kRowsPadded - 1) / kRowsPadded * kRowsPadded;
    if (row < padded) return row < own;
    row -= padded;
  }
  return false;
}

// Of the values that the block's threads give, in every thread: lanes by halves, then warps in
// order. All threads call it; shared memory at `at` is its own until the next call.
template <class Combine>
__device__ __forceinline__ float over_block(float own, uint32_t at, Combine combine) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) own = combine(own, ptx::shuffle_xor(own, mask));
  const int thread = ptx::thread_index();
  ptx::sync_block();  // the last call's readers are done
  if (thread % 32 == 0) ptx::store_shared(at + thread / 32 * 4, own);
  ptx::sync_block();
  float all = ptx::load_shared<float>(at);
#pragma unroll
  for (int warp = 1; warp < kRowWarps; ++warp) {
    all = combine(all, ptx::load_shared<float>(at + warp * 4));
  }
  return all;
}

__device__ __forceinline__ float sum_over_block(float own) {
  return over_block(own, ptx::shared_base(), [](float a, float b) { return a + b; });
}
__device__ __forceinline__ float max_over_block(float own) {
  return over_block(own, ptx::shared_base(), [](float a, float b) { return a > b ? a : b; });
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
