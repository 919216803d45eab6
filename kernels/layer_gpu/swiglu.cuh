#pragma once
// The kernels behind swiglu and swiglu_backward.

#include "kernels/layer_gpu/rows.cuh"
#include "kernels/layer_gpu/swiglu.h"

namespace rehearse::kernels::REHEARSE_TARGET {

__device__ __forceinline__ float sigmoid(float x) {
  return 1 / (1 + expf(-x));
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) swiglu_kernel(const __grid_constant__ Arguments s) {
  const int64_t first = int64_t{ptx::block_index()} * kExpertRowsPerBlock;
  for (int64_t row = first; row < first + kExpertRowsPerBlock && row < s.rows; ++row) {
    if (!is_row(row, s.counts)) continue;
    const float weight = s.row_weights != nullptr ? ptx::load_global(s.row_weights + row) : 1;
    for (int64_t c = ptx::thread_index(); c < s.width; c += kRowThreads) {
      const float gate = load(s.gate_up, row * 2 * s.width + c);
      const float up = load(s.gate_up, (row * 2 + 1) * s.width + c);
      store(s.y, row * s.width + c, weight * (gate * sigmoid(gate) * up));
    }
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    swiglu_input_kernel(const __grid_constant__ Arguments s) {
  const int64_t first = int64_t{ptx::block_index()} * kExpertRowsPerBlock;
  for (int64_t row = first; row < first + kExpertRowsPerBlock && row < s.rows; ++row) {
    if (!is_row(row, s.counts)) continue;
    const float weight = s.row_weights != nullptr ? ptx::load_global(s.row_weights + row) : 1;
    float own = 0;
    for (int64_t c = ptx::thread_index(); c < s.width; c += kRowThreads) {
      const int64_t gate_at = row * 2 * s.width + c;
      const float gate = load(s.gate_up, gate_at);
      const float up = load(s.gate_up, gate_at + s.width);
      const float dy = load(s.dy, row * s.width + c);
      const float sig = sigmoid(gate);
      const float silu = gate * sig;
      own = ptx::multiply_add(dy, silu * up, own);
      const float d = dy * weight;
      store(s.d_gate_up, gate_at, d * up * sig * (1 + gate * (1 - sig)));
      store(s.d_gate_up, gate_at + s.width, d * silu);
    }
    if (s.row_weights == nullptr) continue;
    const float sum = sum_over_block(own);
    if (ptx::thread_index() == 0) ptx::store_global(s.d_row_weights + row, sum);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
