#pragma once
// Plain causal attention on a GPU (kernels/attention/ says what it is): any widths, grouped heads,
// MLA's shared key; every sum in the order of keys or queries, so that every run gives the same
// bits. The fallback where no library's attention is at hand, and the judge of faster ones.

#include "kernels/attention/attention.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

struct GpuAttention {
  AttentionShape shape;
  ConstValues q, kv;     // [tokens, heads, qk], [tokens, keys, qk_nope + v_head]
  ConstValues k_rope;    // [tokens, k_rope_stride], or nothing without qk_rope
  Values o;              // [tokens, heads, v_head]
  float* lse = nullptr;  // [tokens, heads]
};

// All three gradients are overwritten. A length of up to 25 thousand tokens.
struct GpuAttentionBackward {
  AttentionShape shape;
  ConstValues q, kv, k_rope;
  ConstValues o, d_o;
  const float* lse = nullptr;
  float* dq = nullptr;             // [tokens, heads, qk]
  float* dkv = nullptr;            // [tokens, keys, qk_nope + v_head]
  float* dk_rope = nullptr;        // [tokens, k_rope_stride], qk_rope columns of it; or null
  float* delta = nullptr;          // [tokens, heads], scratch
  float* rope_of_heads = nullptr;  // [tokens, heads, qk_rope], scratch
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. No tokens: nothing
// is.
namespace gpu {
void attention(const GpuAttention& a, Stream stream);
void attention_backward(const GpuAttentionBackward& a, Stream stream);
}  // namespace gpu
namespace imitated {
void attention(const GpuAttention& a, Stream stream);
void attention_backward(const GpuAttentionBackward& a, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
