#pragma once
// The kernels behind counts.h.

#include "kernels/layer_gpu/counts.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

// A thread per expert, which goes over all choices: counts come in no order, and need none.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) count_kernel(const __grid_constant__ Arguments c) {
  const int64_t e = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (e >= c.experts) return;
  int64_t count = ptx::load_own(c.load + e);
  for (int64_t i = 0; i < c.count; ++i) count += ptx::load_global(c.chosen + i) == e;
  ptx::store_global(c.load + e, count);
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    update_bias_kernel(const __grid_constant__ Arguments u) {
  int64_t sum = 0;
  for (int64_t e = 0; e < u.experts; ++e) sum += ptx::load_global(u.load + e);
  for (int64_t e = ptx::thread_index(); e < u.experts; e += kRowThreads) {
    const int64_t above = ptx::load_global(u.load + e) * u.experts - sum;
    const double sign = above > 0 ? -1 : above < 0 ? 1 : 0;
    ptx::store_global(u.bias + e, ptx::load_own(u.bias + e) + static_cast<float>(u.speed * sign));
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    weights_of_chosen_kernel(const __grid_constant__ Arguments w) {
  const int64_t token = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (token >= w.tokens) return;
  const auto score = [&](int64_t k) {
    return ptx::load_global(w.scores + token * w.experts +
                            ptx::load_global(w.chosen + token * w.active + k));
  };
  float sum = 0;
  for (int64_t k = 0; k < w.active; ++k) sum += score(k);
  const float factor = w.scaling / (w.normalize ? sum : 1);
  for (int64_t k = 0; k < w.active; ++k) {
    ptx::store_global(w.weights + token * w.active + k, score(k) * factor);
  }
}

// A block's part: 1 where something is not finite.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    bad_partial_kernel(const __grid_constant__ Arguments c) {
  float bad = 0;
  const int64_t step = int64_t{kBadBlocks} * kRowThreads;
  for (int64_t i = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index(); i < c.elements;
       i += step) {
    const float x = load(c.x, i);
    if (x - x != 0) bad = 1;  // infinite, or NaN, which is no number's equal
  }
  bad = max_over_block(bad);
  if (ptx::thread_index() == 0) ptx::store_global(c.partial + ptx::block_index(), bad);
}
template <class Arguments>
__global__ void __launch_bounds__(32) bad_kernel(const __grid_constant__ Arguments c) {
  if (ptx::thread_index() != 0) return;
  bool bad = false;
  for (int i = 0; i < kBadBlocks; ++i) bad = bad || ptx::load_global(c.partial + i) != 0;
  ptx::store_global(c.count, ptx::load_own(c.count) + (bad ? 1 : 0));
}

// One block: threads over the elements, then their sums in order.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) total_kernel(const __grid_constant__ Arguments t) {
  double own = 0;
  for (int64_t i = ptx::thread_index(); i < t.elements; i += kRowThreads) {
    const double x = t.fp32 != nullptr   ? static_cast<double>(ptx::load_global(t.fp32 + i))
                     : t.fp64 != nullptr ? ptx::load_global(t.fp64 + i)
                                         : static_cast<double>(ptx::load_global(t.int64 + i));
    own += t.of == GpuTotal::Of::kValues    ? x
           : t.of == GpuTotal::Of::kSquares ? x * x
                                            : (x - x != 0 ? 1.0 : 0.0);
  }
  const uint32_t sums = ptx::shared_base();
  ptx::store_shared(sums + static_cast<uint32_t>(ptx::thread_index()) * 8, own);
  ptx::sync_block();
  if (ptx::thread_index() != 0) return;
  double all = t.add ? ptx::load_own(t.sum) : 0;
  for (int i = 0; i < kRowThreads; ++i)
    all += ptx::load_shared<double>(sums + static_cast<uint32_t>(i) * 8);
  ptx::store_global(t.sum, all);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
