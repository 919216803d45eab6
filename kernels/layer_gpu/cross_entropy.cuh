#pragma once
// The kernels behind cross_entropy and cross_entropy_backward.

#include "kernels/layer_gpu/cross_entropy.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_kernel(const __grid_constant__ Arguments c) {
  const int64_t token = ptx::block_index();
  const float* const logits = c.logits + token * c.vocabulary;
  float most = -INFINITY;
  for (int64_t v = ptx::thread_index(); v < c.vocabulary; v += kRowThreads) {
    const float x = ptx::load_global(logits + v);
    most = x > most ? x : most;
  }
  most = max_over_block(most);
  float own = 0;
  for (int64_t v = ptx::thread_index(); v < c.vocabulary; v += kRowThreads) {
    own += expf(ptx::load_global(logits + v) - most);
  }
  const float lse = most + logf(sum_over_block(own));
  if (ptx::thread_index() != 0) return;
  const int32_t target = ptx::load_global(c.targets + token);
  ptx::store_global(c.lse + token, lse);
  ptx::store_global(c.losses + token, target < 0 ? 0 : lse - ptx::load_global(logits + target));
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_input_kernel(const __grid_constant__ Arguments c) {
  const int64_t token = ptx::block_index();
  float* const logits = c.logits + token * c.vocabulary;
  const int32_t target = ptx::load_global(c.targets + token);
  const float lse = ptx::load_global(c.lse + token);
  for (int64_t v = ptx::thread_index(); v < c.vocabulary; v += kRowThreads) {
    const float p = expf(ptx::load_own(logits + v) - lse);
    const float d = c.scale * (v == target ? p - 1 : p);
    ptx::store_global(logits + v, target < 0 ? 0 : d);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
