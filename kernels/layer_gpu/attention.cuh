#pragma once
// The kernels behind attention and attention_backward.

#include "kernels/layer_gpu/attention.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

// Shared memory behind the reduction's: values, one after the other.
inline constexpr int kAttentionValues = 64;  // bytes from the base
__device__ __forceinline__ uint32_t value_at(int64_t i) {
  return ptx::shared_base() + kAttentionValues + static_cast<uint32_t>(i) * 4;
}

// Where a query and a key of the same sequence stand.
template <class Arguments>
struct Heads {
  __device__ __forceinline__ explicit Heads(const Arguments& all)
      : a(all),
        heads(static_cast<int>(a.shape.heads)),
        keys(static_cast<int>(a.shape.kv_heads > 0 ? a.shape.kv_heads : a.shape.heads)),
        per_key(heads / keys),
        length(static_cast<int>(a.shape.length)),
        qk(a.shape.qk_nope + a.shape.qk_rope),
        kv_width(a.shape.qk_nope + a.shape.v_head),
        scale(static_cast<float>(a.shape.softmax_factor) / sqrtf(static_cast<float>(qk))) {}

  __device__ __forceinline__ int64_t kv_head(int64_t head) const {
    return static_cast<int>(head) / per_key;
  }
  __device__ __forceinline__ int64_t query(int64_t token, int64_t head) const {
    return (token * a.shape.heads + head) * qk;
  }
  __device__ __forceinline__ int64_t key(int64_t token, int64_t of) const {
    return (token * keys + of) * kv_width;
  }
  __device__ __forceinline__ int64_t output(int64_t token, int64_t head) const {
    return (token * a.shape.heads + head) * a.shape.v_head;
  }
  // A key's column.
  __device__ __forceinline__ float key_value(int64_t token, int64_t of, int64_t c) const {
    return c < a.shape.qk_nope
               ? load(a.kv, key(token, of) + c)
               : load(a.k_rope, token * a.shape.k_rope_stride + c - a.shape.qk_nope);
  }
  __device__ __forceinline__ float score(int64_t query_token,
                                         int64_t head,
                                         int64_t key_token) const {
    float dot = 0;
    for (int64_t c = 0; c < qk; ++c) {
      dot = ptx::multiply_add(
          load(a.q, query(query_token, head) + c), key_value(key_token, kv_head(head), c), dot);
    }
    return dot * scale;
  }

  const Arguments& a;
  int heads, keys, per_key, length;  // 64-bit divisions are calls
  int64_t qk, kv_width;
  float scale;
};

// A block: a query of a head.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    attention_kernel(const __grid_constant__ Arguments a) {
  const Heads<Arguments> h(a);
  const int token = ptx::block_index() / h.heads;
  const int head = ptx::block_index() % h.heads;
  const int64_t seen = token % h.length + 1;  // keys
  const int64_t first = token + 1 - seen;
  float most = -INFINITY;
  for (int64_t j = ptx::thread_index(); j < seen; j += kRowThreads) {
    const float score = h.score(token, head, first + j);
    ptx::store_shared(value_at(j), score);
    most = score > most ? score : most;
  }
  most = max_over_block(most);
  float own = 0;
  for (int64_t j = ptx::thread_index(); j < seen; j += kRowThreads) {
    const float p = expf(ptx::load_shared<float>(value_at(j)) - most);
    ptx::store_shared(value_at(j), p);
    own += p;
  }
  const float sum = sum_over_block(own);  // and all scores are there
  for (int64_t c = ptx::thread_index(); c < a.shape.v_head; c += kRowThreads) {
    float o = 0;
    for (int64_t j = 0; j < seen; ++j) {
      o = ptx::multiply_add(ptx::load_shared<float>(value_at(j)),
                            load(a.kv, h.key(first + j, h.kv_head(head)) + a.shape.qk_nope + c),
                            o);
    }
    store(a.o, h.output(token, head) + c, o / sum);
  }
  if (ptx::thread_index() == 0) {
    ptx::store_global(a.lse + int64_t{token} * h.heads + head, most + logf(sum));
  }
}

// delta = d_o . o
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    attention_delta_kernel(const __grid_constant__ Arguments a) {
  const int64_t row = ptx::block_index();
  float dot = 0;
  for (int64_t c = ptx::thread_index(); c < a.shape.v_head; c += kRowThreads) {
    const int64_t at = row * a.shape.v_head + c;
    dot = ptx::multiply_add(load(a.d_o, at), load(a.o, at), dot);
  }
  dot = sum_over_block(dot);
  if (ptx::thread_index() == 0) ptx::store_global(a.delta + row, dot);
}

// The probability of a key for a query, and the gradient of its score.
struct OfScore {
  float p, ds;
};
template <class Arguments>
__device__ __forceinline__ OfScore
gradient_of_score(const Heads<Arguments>& h, int64_t query, int64_t head, int64_t key) {
  const Arguments& a = h.a;
  const int64_t row = query * a.shape.heads + head;
  const float p = expf(h.score(query, head, key) - ptx::load_global(a.lse + row));
  float dp = 0;
  for (int64_t c = 0; c < a.shape.v_head; ++c) {
    dp = ptx::multiply_add(load(a.d_o, h.output(query, head) + c),
                           load(a.kv, h.key(key, h.kv_head(head)) + a.shape.qk_nope + c),
                           dp);
  }
  return {p, p * (dp - ptx::load_global(a.delta + row)) * h.scale};
}

// A block: a query of a head.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    attention_query_kernel(const __grid_constant__ Arguments a) {
  const Heads<Arguments> h(a);
  const int token = ptx::block_index() / h.heads;
  const int head = ptx::block_index() % h.heads;
  const int64_t seen = token % h.length + 1;
  const int64_t first = token + 1 - seen;
  for (int64_t j = ptx::thread_index(); j < seen; j += kRowThreads) {
    ptx::store_shared(value_at(j), gradient_of_score(h, token, head, first + j).ds);
  }
  ptx::sync_block();
  for (int64_t c = ptx::thread_index(); c < h.qk; c += kRowThreads) {
    float dq = 0;
    for (int64_t j = 0; j < seen; ++j) {
      dq = ptx::multiply_add(
          ptx::load_shared<float>(value_at(j)), h.key_value(first + j, h.kv_head(head), c), dq);
    }
    ptx::store_global(a.dq + h.query(token, head) + c, dq);
  }
}

// A block: a key and its value, of a key head; its query heads one after the other. Columns' sums
// stand in shared memory, each its thread's own.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    attention_key_kernel(const __grid_constant__ Arguments a) {
  const Heads<Arguments> h(a);
  const int token = ptx::block_index() / h.keys;
  const int of = ptx::block_index() % h.keys;
  const int64_t queries = h.length - token % h.length;  // from this token on
  const int64_t sums = 2 * a.shape.length;              // behind probabilities and gradients
  for (int head = of * h.per_key; head < (of + 1) * h.per_key; ++head) {
    for (int64_t i = ptx::thread_index(); i < queries; i += kRowThreads) {
      const OfScore s = gradient_of_score(h, token + i, head, token);
      ptx::store_shared(value_at(i), s.p);
      ptx::store_shared(value_at(a.shape.length + i), s.ds);
    }
    ptx::sync_block();
    for (int64_t c = ptx::thread_index(); c < h.kv_width; c += kRowThreads) {
      const bool key = c < a.shape.qk_nope;
      float sum = head == of * h.per_key ? 0 : ptx::load_shared<float>(value_at(sums + c));
      for (int64_t i = 0; i < queries; ++i) {
        const float weight = ptx::load_shared<float>(value_at((key ? a.shape.length : 0) + i));
        const float x = key ? load(a.q, h.query(token + i, head) + c)
                            : load(a.d_o, h.output(token + i, head) + c - a.shape.qk_nope);
        sum = ptx::multiply_add(weight, x, sum);
      }
      ptx::store_shared(value_at(sums + c), sum);
    }
    for (int64_t c = ptx::thread_index(); c < a.shape.qk_rope; c += kRowThreads) {
      float sum = 0;
      for (int64_t i = 0; i < queries; ++i) {
        sum = ptx::multiply_add(ptx::load_shared<float>(value_at(a.shape.length + i)),
                                load(a.q, h.query(token + i, head) + a.shape.qk_nope + c),
                                sum);
      }
      ptx::store_global(a.rope_of_heads + (token * a.shape.heads + head) * a.shape.qk_rope + c,
                        sum);
    }
    ptx::sync_block();  // before the next head's
  }
  for (int64_t c = ptx::thread_index(); c < h.kv_width; c += kRowThreads) {
    ptx::store_global(a.dkv + h.key(token, of) + c, ptx::load_shared<float>(value_at(sums + c)));
  }
}

// The shared key's: heads in order.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    attention_shared_key_kernel(const __grid_constant__ Arguments a) {
  const int64_t token = ptx::block_index();
  for (int64_t c = ptx::thread_index(); c < a.shape.qk_rope; c += kRowThreads) {
    float sum = 0;
    for (int64_t head = 0; head < a.shape.heads; ++head) {
      sum +=
          ptx::load_global(a.rope_of_heads + (token * a.shape.heads + head) * a.shape.qk_rope + c);
    }
    ptx::store_global(a.dk_rope + token * a.shape.k_rope_stride + c, sum);
  }
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
