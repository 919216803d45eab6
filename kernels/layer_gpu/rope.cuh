#pragma once
// The kernel behind rope.

#include "kernels/layer_gpu/rope.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

// What stays is copied, a column per thread; what turns is done by pairs.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) rope_kernel(const __grid_constant__ Arguments r) {
  const int64_t row = ptx::block_index();
  const int64_t from = row * r.columns;
  for (int64_t c = ptx::thread_index(); c < r.columns; c += kRowThreads) {
    const int64_t of_head = c - r.first;
    const int64_t in_head = r.heads == 1 ? of_head : of_head % r.head_stride;
    const bool turns =
        of_head >= 0 && in_head < r.width && (r.heads == 1 || of_head / r.head_stride < r.heads);
    if (!turns) store(r.y, from + c, load(r.x, from + c));
  }
  const int64_t half = r.width / 2;
  const int64_t position = row % r.length;
  for (int64_t i = ptx::thread_index(); i < r.heads * half; i += kRowThreads) {
    const int64_t pair = i % half;
    const int64_t head = r.first + i / half * r.head_stride;
    const bool halves = r.pairs == RopePairs::kHalves;
    const int64_t low = head + (halves ? pair : 2 * pair);
    const int64_t high = head + (halves ? half + pair : 2 * pair + 1);
    const float cosine = ptx::load_global(r.cosine + position * half + pair);
    const float angle = ptx::load_global(r.sine + position * half + pair);
    const float sine = r.turn == Turn::kForward ? angle : -angle;
    const float a = load(r.x, from + low);
    const float b = load(r.x, from + high);
    store(r.y, from + low, a * cosine - b * sine);
    store(r.y, from + high, a * sine + b * cosine);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
