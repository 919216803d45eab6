#pragma once
// Causal attention. MLA in its plain form: query and key have a part without position and a rotated
// part, the latter's key shared by all heads; values have a width of their own. Grouped-query
// attention: qk_rope is 0 (rotated parts are within qk_nope), and heads / kv_heads neighbouring
// query heads share a key and value head.
//   o_t = sum_{u <= t} softmax_u(q_t . k_u / sqrt(qk)) v_u,   k_u = [k_nope_u; k_rope_u]
// Sources: DeepSeek-V3 technical report, equations 1-11; Ainslie et al. 2023 (arXiv 2305.13245).
// Softmax in FP32.

#include <cstdint>

namespace rehearse::kernels {

struct AttentionShape {
  int64_t sequences = 0;
  int64_t length = 0;  // tokens of each
  int64_t heads = 0;
  int64_t qk_nope = 0;
  int64_t qk_rope = 0;
  int64_t v_head = 0;
  int64_t k_rope_stride = 0;  // elements between tokens of k_rope
  double softmax_factor = 1;  // on 1 / sqrt(qk): YaRN's
  int64_t kv_heads = 0;       // divides heads; 0: as many
  int64_t qk() const { return qk_nope + qk_rope; }
  int64_t tokens() const { return sequences * length; }
  int64_t keys() const { return kv_heads > 0 ? kv_heads : heads; }
  int64_t kv_width() const { return keys() * (qk_nope + v_head); }  // of a token
};

// q: [tokens, heads, qk], rotated; kv: [tokens, keys(), qk_nope + v_head]; k_rope: [tokens,
// qk_rope] with k_rope_stride, rotated; o: [tokens, heads, v_head]; lse: [tokens, heads], the
// logarithm of the softmax's denominator, for the backward pass.
void attention(const AttentionShape& s,
               const float* q,
               const float* kv,
               const float* k_rope,
               float* o,
               float* lse);

struct AttentionGradients {
  float* dq = nullptr;       // [tokens, heads, qk]
  float* dkv = nullptr;      // [tokens, keys(), qk_nope + v_head]
  float* dk_rope = nullptr;  // [tokens, qk_rope] with k_rope_stride: summed over heads; or null
};

// Overwrites all three gradients. The probabilities are computed again from lse.
void attention_backward(const AttentionShape& s,
                        const float* d_o,
                        const float* q,
                        const float* kv,
                        const float* k_rope,
                        const float* o,
                        const float* lse,
                        const AttentionGradients& out);

void attention_reference(
    const AttentionShape& s, const double* q, const double* kv, const double* k_rope, double* o);

}  // namespace rehearse::kernels
