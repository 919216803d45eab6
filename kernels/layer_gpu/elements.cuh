#pragma once
// The kernels behind elements.h.

#include "kernels/layer_gpu/elements.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

// What only this thread touches.
__device__ __forceinline__ float own_value(const ConstValues& v, int64_t at) {
  if (v.fp32 != nullptr) return ptx::load_own(v.fp32 + at);
  const uint32_t bits = uint32_t{ptx::load_own(reinterpret_cast<const uint16_t*>(v.bf16) + at)}
                        << 16;
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) sum_kernel(const __grid_constant__ Arguments s) {
  const int64_t i = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (i >= s.elements) return;
  float x = own_value(s.x, i);
  if (there(s.first)) x += load(s.first, i);
  if (there(s.second)) x += load(s.second, i);
  store(s.y, i, x);
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    embedding_kernel(const __grid_constant__ Arguments e) {
  const int64_t t = ptx::block_index();
  const int64_t from = int64_t{ptx::load_global(e.tokens + t)} * e.width;
  for (int64_t c = ptx::thread_index(); c < e.width; c += kRowThreads) {
    store(e.x, t * e.width + c, load(e.table, from + c));
  }
}

// The block of a token's first occurrence adds all of them, so that nobody else writes its row.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    embedding_table_kernel(const __grid_constant__ Arguments e) {
  const int64_t first = ptx::block_index();
  const int32_t token = ptx::load_global(e.tokens + first);
  float seen = 0;
  for (int64_t t = ptx::thread_index(); t < first; t += kRowThreads) {
    if (ptx::load_global(e.tokens + t) == token) seen = 1;
  }
  if (max_over_block(seen) > 0) return;
  for (int64_t c = ptx::thread_index(); c < e.width; c += kRowThreads) {
    float* const to = e.d_table + token * e.width + c;
    float sum = ptx::load_own(to);
    for (int64_t t = first; t < e.count; ++t) {
      if (ptx::load_global(e.tokens + t) == token) sum += load(e.dx, t * e.width + c);
    }
    ptx::store_global(to, sum);
  }
}

// What follows from the step's number alone, made on the host.
struct AdamWFactors {
  float beta1, beta2, rate, root, eps;
};

// A thread per element; its segment by bisection.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    adamw_kernel(const __grid_constant__ Arguments both) {
  const auto& a = both.call;
  const AdamWFactors& f = both.factors;
  const double squares = ptx::load_global(a.status);
  bool applies = squares - squares == 0;  // finite
  for (int i = 1; i < a.status_size; ++i) applies = applies && ptx::load_global(a.status + i) == 0;
  if (!applies) return;
  const int64_t i = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  int64_t low = 0;
  int64_t high = a.segment_count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ptx::load_global(&a.segments[middle].end) <= i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == a.segment_count || i < ptx::load_global(&a.segments[low].begin)) return;
  const double norm = sqrt(squares);
  const float scale = a.clip > 0 && norm > a.clip ? static_cast<float>(a.clip / norm) : 1;
  const float g = ptx::load_global(a.gradients + i) * scale;
  const float first = f.beta1 * own_value(a.m, i) + (1 - f.beta1) * g;
  const float second = f.beta2 * own_value(a.v, i) + (1 - f.beta2) * g * g;
  store(a.m, i, first);
  store(a.v, i, second);
  const float weight = ptx::load_own(a.weights + i) * ptx::load_global(&a.segments[low].keep) -
                       f.rate * first / (sqrtf(second) * f.root + f.eps);
  ptx::store_global(a.weights + i, weight);
  if (there(a.rounded)) store(a.rounded, i, weight);
  if (a.average != nullptr) {
    ptx::store_global(
        a.average + i,
        a.average_decay * ptx::load_own(a.average + i) + (1 - a.average_decay) * weight);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
