#pragma once
// The kernels behind experts.h.

#include "kernels/layer_gpu/experts.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

__device__ __forceinline__ int64_t padded_rows(int64_t rows) {
  return (rows + kRowsPadded - 1) / kRowsPadded * kRowsPadded;
}

// A block per chunk of tokens, a thread per expert: how many of the chunk chose it.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    count_rows_kernel(const __grid_constant__ Arguments m) {
  const int64_t chunk = ptx::block_index();
  const int64_t begin = chunk * kMapChunk * m.active;
  const int64_t tokens =
      m.tokens - chunk * kMapChunk < kMapChunk ? m.tokens - chunk * kMapChunk : kMapChunk;
  for (int64_t e = ptx::thread_index(); e < m.experts; e += kRowThreads) {
    int32_t count = 0;
    for (int64_t i = begin; i < begin + tokens * m.active; ++i) {
      count += ptx::load_global(m.slots + i) == e;
    }
    ptx::store_global(m.starts + (chunk + 1) * m.experts + e, count);
  }
}

// One block. Of every expert its first row, and how many of its rows have room; starts[0]: the
// first rows.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    place_experts_kernel(const __grid_constant__ Arguments m) {
  const int64_t chunks = (m.tokens + kMapChunk - 1) / kMapChunk;
  const uint32_t counts = ptx::shared_base();
  for (int64_t e = ptx::thread_index(); e < m.experts; e += kRowThreads) {
    int32_t count = 0;
    for (int64_t c = 0; c < chunks; ++c) {
      count += ptx::load_global(m.starts + (c + 1) * m.experts + e);
    }
    ptx::store_shared(counts + static_cast<uint32_t>(e) * 4, count);
  }
  ptx::sync_block();
  if (ptx::thread_index() != 0) return;
  int64_t first = 0;
  int64_t lost = 0;
  for (int64_t e = 0; e < m.experts; ++e) {
    const int64_t count = ptx::load_shared<int32_t>(counts + static_cast<uint32_t>(e) * 4);
    const int64_t room = m.capacity - first < 0 ? 0 : m.capacity - first;
    const int64_t here = count < room ? count : room;
    lost += count - here;
    ptx::store_global(m.starts + e, static_cast<int32_t>(first));
    ptx::store_global(m.expert_rows + e, static_cast<int32_t>(here));
    first += padded_rows(here);
  }
  ptx::store_global(m.overflowed, ptx::load_own(m.overflowed) + lost);
}

// As count_rows_kernel: each thread gives its expert's rows to the chunk's tokens, in order.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    give_rows_kernel(const __grid_constant__ Arguments m) {
  const int chunk = ptx::block_index();
  const int active = static_cast<int>(m.active);
  const int experts = static_cast<int>(m.experts);
  const int begin = chunk * static_cast<int>(kMapChunk) * active;
  const int all = static_cast<int>(m.tokens) * active;
  const int end = begin + static_cast<int>(kMapChunk) * active < all
                      ? begin + static_cast<int>(kMapChunk) * active
                      : all;
  for (int e = ptx::thread_index(); e < experts; e += kRowThreads) {
    const int first = ptx::load_global(m.starts + e);
    const int here = ptx::load_global(m.expert_rows + e);
    int next = 0;
    for (int c = 1; c <= chunk; ++c) next += ptx::load_global(m.starts + c * experts + e);
#pragma unroll 1
    for (int i = begin; i < end; ++i) {
      if (ptx::load_global(m.slots + i) != e) continue;
      const int row = next < here ? first + next : -1;
      ++next;
      ptx::store_global(m.row_of + i, row);
      if (row < 0) continue;
      ptx::store_global(m.token_of_row + row, i / active);
      ptx::store_global(m.choice_of_row + row, i % active);
    }
    if (chunk > 0) continue;
    const int padded = first + static_cast<int>(padded_rows(here));
#pragma unroll 1
    for (int row = first + here; row < padded; ++row) ptx::store_global(m.token_of_row + row, -1);
  }
  for (int i = begin + ptx::thread_index(); i < end; i += kRowThreads) {
    if (ptx::load_global(m.slots + i) < 0) ptx::store_global(m.row_of + i, -1);
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) permute_kernel(const __grid_constant__ Arguments p) {
  const int64_t first = int64_t{ptx::block_index()} * kExpertRowsPerBlock;
  for (int64_t row = first; row < first + kExpertRowsPerBlock && row < p.capacity; ++row) {
    if (!is_row(row, p.counts)) continue;
    const int64_t token = ptx::load_global(p.token_of_row + row);
    if (p.x_codes == nullptr) {
      for (int64_t c = ptx::thread_index(); c < p.width; c += kRowThreads) {
        store(p.rows, row * p.width + c, load(p.x, token * p.width + c));
      }
      continue;
    }
    for (int64_t c = ptx::thread_index(); c < p.width; c += kRowThreads) {
      ptx::store_global(p.row_codes + row * p.width + c,
                        ptx::load_global(p.x_codes + token * p.width + c));
    }
    for (int64_t t = ptx::thread_index(); t * kScaleBlock < p.width; t += kRowThreads) {
      ptx::store_global(p.row_scales + t * p.row_scale_stride + row,
                        ptx::load_global(p.x_scales + t * p.x_scale_stride + token));
    }
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    unpermute_kernel(const __grid_constant__ Arguments u) {
  const int64_t token = ptx::block_index();
  for (int64_t c = ptx::thread_index(); c < u.width; c += kRowThreads) {
    const int64_t at = token * u.width + c;
    float sum = there(u.first) ? load(u.first, at) : 0;
    if (there(u.second)) sum += load(u.second, at);
    for (int64_t k = 0; k < u.active; ++k) {
      const int64_t row = ptx::load_global(u.row_of + token * u.active + k);
      if (row >= 0) sum += load(u.rows, row * u.width + c);
    }
    store(u.y, at, sum);
  }
}

// --- the router

// The best of a warp's values, the first of equals, in every lane.
struct Best {
  float value;
  int index;
};
__device__ __forceinline__ Best best_of_warp(Best own) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float value = ptx::shuffle_xor(own.value, mask);
    // Indices are below 2^24, which FP32 holds exactly.
    const int index = static_cast<int>(ptx::shuffle_xor(static_cast<float>(own.index), mask));
    if (value > own.value || (value == own.value && index < own.index)) own = {value, index};
  }
  return own;
}
__device__ __forceinline__ float sum_of_warp(float own) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) own += ptx::shuffle_xor(own, mask);
  return own;
}
__device__ __forceinline__ float max_of_warp(float own) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = ptx::shuffle_xor(own, mask);
    own = other > own ? other : own;
  }
  return own;
}

inline constexpr int kMostGroups = 64;
inline int gate_shared(int64_t experts) {  // bytes of a warp: choices and scores, and groups
  return static_cast<int>(2 * experts + kMostGroups) * 4;
}

// Leaves the choices of the best groups, and -infinity in all others'.
template <class Arguments>
__device__ void limit_groups(const Arguments& g, uint32_t choices, uint32_t groups, int lane) {
  const int size = static_cast<int>(g.shape.experts / g.shape.groups);
  for (int group = 0; group < g.shape.groups; ++group) {
    float best = -INFINITY;
    float second = -INFINITY;
    for (int e = group * size + lane; e < (group + 1) * size; e += 32) {
      const float x = ptx::load_shared<float>(choices + e * 4);
      if (x > best) {
        second = best;
        best = x;
      } else if (x > second) {
        second = x;
      }
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = ptx::shuffle_xor(best, mask);
      const float next = ptx::shuffle_xor(second, mask);
      const float low = other > best ? best : other;
      best = other > best ? other : best;
      second = next > second ? next : second;
      second = low > second ? low : second;
    }
    const bool two = g.bias != nullptr && size > 1;
    if (lane == 0) ptx::store_shared(groups + group * 4, two ? best + second : best);
  }
  ptx::sync_warp();
  uint64_t kept = 0;
  for (int k = 0; k < g.shape.kept_groups; ++k) {
    Best best{-INFINITY, kMostGroups};
    for (int group = 0; group < g.shape.groups; ++group) {
      const float x = ptx::load_shared<float>(groups + group * 4);
      if (!(kept >> group & 1) && (best.index == kMostGroups || x > best.value)) best = {x, group};
    }
    kept |= uint64_t{1} << best.index;
  }
  for (int e = lane; e < g.shape.experts; e += 32) {
    if (!(kept >> (e / size) & 1)) ptx::store_shared(choices + e * 4, -INFINITY);
  }
  ptx::sync_warp();
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) gate_kernel(const __grid_constant__ Arguments g) {
  const int warp = ptx::thread_index() / 32;
  const int lane = ptx::thread_index() % 32;
  const int64_t token = int64_t{ptx::block_index()} * kRowWarps + warp;
  if (token >= g.shape.tokens) return;
  const int experts = static_cast<int>(g.shape.experts);
  const int active = static_cast<int>(g.shape.active);
  const uint32_t choices =
      ptx::shared_base() + static_cast<uint32_t>(warp * (2 * experts + kMostGroups)) * 4;
  const uint32_t scores = choices + experts * 4;
  const float* const logits = g.logits + token * experts;
  float most = 0;
  float all = 1;
  if (!g.shape.sigmoid) {
    most = -INFINITY;
    for (int e = lane; e < experts; e += 32) {
      const float x = ptx::load_global(logits + e);
      most = x > most ? x : most;
    }
    most = max_of_warp(most);
    all = 0;
    for (int e = lane; e < experts; e += 32) all += expf(ptx::load_global(logits + e) - most);
    all = sum_of_warp(all);
  }
  for (int e = lane; e < experts; e += 32) {
    const float x = ptx::load_global(logits + e);
    const float score = g.shape.sigmoid ? 1 / (1 + expf(-x)) : expf(x - most) / all;
    ptx::store_global(g.scores + token * experts + e, score);
    ptx::store_shared(scores + e * 4, score);
    ptx::store_shared(choices + e * 4,
                      score + (g.bias != nullptr ? ptx::load_global(g.bias + e) : 0));
  }
  ptx::sync_warp();
  if (g.shape.kept_groups < g.shape.groups) limit_groups(g, choices, scores + experts * 4, lane);
  float sum = 0;
  Best mine{0, 0};  // of the choice whose number is the lane's
  for (int k = 0; k < active; ++k) {
    Best best{-INFINITY, experts};
    for (int e = lane; e < experts; e += 32) {
      const float x = ptx::load_shared<float>(choices + e * 4);
      if (x > best.value || best.index == experts) best = {x, e};
    }
    best = best_of_warp(best);
    const float score = ptx::load_shared<float>(scores + best.index * 4);
    ptx::sync_warp();  // all have read it
    if (lane == best.index % 32) ptx::store_shared(choices + best.index * 4, -INFINITY);
    ptx::sync_warp();
    sum += score;
    if (lane == k) mine = {score, best.index};
  }
  const float factor = static_cast<float>(g.shape.scaling) / (g.shape.normalize ? sum : 1);
  if (lane >= active) return;
  ptx::store_global(g.chosen + token * active + lane, mine.index);
  ptx::store_global(g.weights + token * active + lane, mine.value * factor);
}

// A block per sequence, a thread per expert: f_i (report, equation 18).
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    gate_frequency_kernel(const __grid_constant__ Arguments g) {
  const int64_t sequence = ptx::block_index();
  const int64_t choices = g.loss.length * g.shape.active;
  const float each = static_cast<float>(g.shape.experts) / static_cast<float>(choices);
  for (int64_t e = ptx::thread_index(); e < g.shape.experts; e += kRowThreads) {
    float f = 0;
    for (int64_t i = sequence * choices; i < (sequence + 1) * choices; ++i) {
      if (ptx::load_global(g.chosen + i) == e) f += each;
    }
    ptx::store_global(g.frequency + sequence * g.shape.experts + e, f);
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    gate_input_kernel(const __grid_constant__ Arguments g) {
  const int lane = ptx::thread_index() % 32;
  const int64_t token = int64_t{ptx::block_index()} * kRowWarps + ptx::thread_index() / 32;
  if (token >= g.shape.tokens) return;
  const int64_t experts = g.shape.experts;
  const int64_t active = g.shape.active;
  const float* const scores = g.scores + token * experts;
  const bool balanced = g.loss.coefficient != 0;
  const float* const frequency = balanced ? g.frequency + token / g.loss.length * experts : nullptr;
  float z = 0;
  float mean = 0;
  if (balanced) {
    for (int64_t e = lane; e < experts; e += 32) {
      const float s = ptx::load_global(scores + e);
      z += s;
      mean += ptx::load_global(frequency + e) * s;
    }
    z = sum_of_warp(z);
    mean = sum_of_warp(mean) / z;
  }
  float sum = 0;
  float dot = 0;
  for (int64_t k = 0; k < active; ++k) {
    const float s = ptx::load_global(scores + ptx::load_global(g.chosen + token * active + k));
    sum += s;
    dot += ptx::load_global(g.d_weights + token * active + k) * s;
  }
  const auto scaling = static_cast<float>(g.shape.scaling);
  const float share =
      balanced ? static_cast<float>(g.loss.coefficient / static_cast<double>(g.loss.length)) : 0;
  // The gradient of an expert's score.
  const auto d_score = [&](int64_t e) {
    float d = balanced ? share / z * (ptx::load_global(frequency + e) - mean) : 0;
    for (int64_t k = 0; k < active; ++k) {
      if (ptx::load_global(g.chosen + token * active + k) != e) continue;
      const float dw = ptx::load_global(g.d_weights + token * active + k);
      d += g.shape.normalize ? scaling * (dw - dot / sum) / sum : scaling * dw;
    }
    return d;
  };
  float all = 0;  // of a softmax: the scores' own mean of these
  if (!g.shape.sigmoid) {
    for (int64_t e = lane; e < experts; e += 32) all += d_score(e) * ptx::load_global(scores + e);
    all = sum_of_warp(all);
  }
  for (int64_t e = lane; e < experts; e += 32) {
    const float s = ptx::load_global(scores + e);
    const float d = g.shape.sigmoid ? d_score(e) * s * (1 - s) : s * (d_score(e) - all);
    ptx::store_global(g.d_logits + token * experts + e, d);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
