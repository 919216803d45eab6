// Queries, keys and values of grouped-query attention: one product, norms of heads where the model
// has them, rotation of each head's first part. Source: Ainslie et al. 2023 (arXiv 2305.13245); the
// order and the rotation's pairs are those of Hugging Face's classes.

#include <algorithm>

#include "kernels/rmsnorm/rmsnorm.h"
#include "runtime/layers/projections.h"

namespace rehearse {

using kernels::MatmulShape;
using kernels::Store;

namespace {

struct GroupedWidths {
  explicit GroupedWidths(const LayerContext& c)
      : t(c.tokens()),
        qk(c.model.qk_head()),
        v(c.model.v_head),
        heads(c.model.heads),
        kv_heads(c.model.kv_heads),
        whole(c.model.head_norm == HeadNorm::kWhole) {}
  int64_t t, qk, v, heads, kv_heads;
  bool whole;
  int64_t q() const { return heads * qk; }
  int64_t k() const { return kv_heads * qk; }
  int64_t kv() const { return kv_heads * (qk + v); }
  int64_t out() const { return q() + kv(); }
  MatmulShape product(int64_t hidden) const { return {.m = t, .n = out(), .k = hidden}; }
};

// Of the norm of `heads` heads of a token.
kernels::RmsNormShape head_shape(const LayerContext& c, const GroupedWidths& s, int64_t heads) {
  const int64_t width = s.whole ? heads * s.qk : s.qk;
  return {.rows = s.t * heads * s.qk / width,
          .width = width,
          .x_stride = width,
          .eps = c.model.norm_eps};
}

// Turns the first part of every head: of queries, and of keys beside their values.
void rotate(const LayerContext& c, kernels::Turn turn, Tensor& q, Tensor& kv) {
  const GroupedWidths s(c);
  if (c.model.qk_rope == 0) return;
  const auto turn_heads = [&](int64_t heads, int64_t width, Tensor& x) {
    kernels::rope({.rows = s.t,
                   .heads = heads,
                   .row_stride = heads * width,
                   .head_stride = width,
                   .pairs = kernels::RopePairs::kHalves},
                  c.rope,
                  turn,
                  x.data());
  };
  turn_heads(s.heads, s.qk, q);
  turn_heads(s.kv_heads, s.qk + s.v, kv);
}

// Between [T, q | keys | values] and queries, keys and values by head: keys beside their values, or
// by themselves.
enum class Copy : uint8_t { kSplit, kJoin };
void copy_heads(const GroupedWidths& s, Copy way, float* qkv, float* q, float* k, float* kv) {
  const auto copy = [&](float* joined, float* split, int64_t count) {
    way == Copy::kSplit ? std::copy_n(joined, count, split) : std::copy_n(split, count, joined);
  };
  for (int64_t t = 0; t < s.t; ++t) {
    float* const row = qkv + t * s.out();
    copy(row, q + t * s.q(), s.q());
    for (int64_t h = 0; h < s.kv_heads; ++h) {
      float* const head = kv + t * s.kv() + h * (s.qk + s.v);
      float* const key = k == nullptr ? head : k + t * s.k() + h * s.qk;
      copy(row + s.q() + h * s.qk, key, s.qk);
      copy(row + s.q() + s.k() + h * s.v, head + s.qk, s.v);
    }
  }
}

// Keys by themselves into their places beside the values, or out of them.
void copy_keys(const GroupedWidths& s, Copy way, float* kv, float* k) {
  for (int64_t i = 0; i < s.t * s.kv_heads; ++i) {
    float* const beside = kv + i * (s.qk + s.v);
    float* const alone = k + i * s.qk;
    way == Copy::kSplit ? std::copy_n(beside, s.qk, alone) : std::copy_n(alone, s.qk, beside);
  }
}

}  // namespace

void grouped_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const GroupedWidths s(c);
  Tensor qkv = c.tensor(s.out());
  kernels::matmul(
      s.product(c.model.hidden), c.fp32(a.x_norm), w.weights.matrix(w.ids.qkv), qkv.data());
  a.q = c.tensor(s.q());
  a.kv = c.tensor(s.kv());
  if (c.model.head_norm == HeadNorm::kNone) {
    copy_heads(s, Copy::kSplit, qkv.data(), a.q.data(), nullptr, a.kv.data());
  } else {
    a.q_raw = c.tensor(s.q());
    a.k_raw = c.tensor(s.k());
    copy_heads(s, Copy::kSplit, qkv.data(), a.q_raw.data(), a.k_raw.data(), a.kv.data());
    qkv.release();
    c.keep(a.q_raw);
    c.keep(a.k_raw);
    const auto normed =
        [&](ParameterId gain, int64_t heads, const Tensor& x, float* y, Tensor& inverse) {
          const kernels::RmsNormShape shape = head_shape(c, s, heads);
          inverse = Tensor(c.pool, shape.rows, 1);
          kernels::rmsnorm(shape, c.fp32(x), c.fp32(w.weights.array(gain)), y, inverse.data());
        };
    normed(*w.ids.q_head_norm, s.heads, a.q_raw, a.q.data(), a.q_a_inverse);
    Tensor k = c.tensor(s.k());
    normed(*w.ids.k_head_norm, s.kv_heads, a.k_raw, k.data(), a.kv_a_inverse);
    copy_keys(s, Copy::kJoin, a.kv.data(), k.data());
  }
  rotate(c, kernels::Turn::kForward, a.q, a.kv);
  c.keep(a.q);
  c.keep(a.kv);
}

Tensor grouped_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const GroupedWidths s(c);
  const GainOffsets gains(c.model);
  rotate(c, kernels::Turn::kBackward, a.d_q, a.d_kv);
  if (c.model.head_norm != HeadNorm::kNone) {
    const auto back = [&](ParameterId gain,
                          int64_t heads,
                          const Tensor& x,
                          const Tensor& inverse,
                          Tensor& d,
                          int64_t offset) {
      Tensor dx = Tensor(c.pool, d.rows(), d.columns());
      kernels::rmsnorm_backward(head_shape(c, s, heads),
                                d.data(),
                                c.fp32(x),
                                c.fp32(w.weights.array(gain)),
                                inverse.data(),
                                nullptr,
                                dx.data(),
                                a.d_gains.data() + offset);
      d = std::move(dx);
    };
    back(*w.ids.q_head_norm, s.heads, a.q_raw, a.q_a_inverse, a.d_q, gains.query);
    Tensor d_k = c.tensor(s.k());
    copy_keys(s, Copy::kSplit, a.d_kv.data(), d_k.data());
    back(*w.ids.k_head_norm, s.kv_heads, a.k_raw, a.kv_a_inverse, d_k, gains.key);
    copy_keys(s, Copy::kJoin, a.d_kv.data(), d_k.data());
  }
  a.d_qkv = c.tensor(s.out());
  copy_heads(s, Copy::kJoin, a.d_qkv.data(), a.d_q.data(), nullptr, a.d_kv.data());
  a.d_q.release();
  a.d_kv.release();
  c.keep(a.d_qkv);
  Tensor d_x_norm = c.tensor(c.model.hidden);
  kernels::matmul_grad_input(s.product(c.model.hidden),
                             c.fp32(a.d_qkv),
                             w.weights.matrix(w.ids.qkv),
                             d_x_norm.data(),
                             Store::kOverwrite);
  return d_x_norm;
}

void grouped_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const GroupedWidths s(c);
  kernels::matmul_grad_weight(
      s.product(c.model.hidden), c.fp32(a.d_qkv), c.fp32(a.x_norm), w.gradients.of(w.ids.qkv));
  if (c.model.head_norm == HeadNorm::kNone) return;
  const GainOffsets gains(c.model);
  add_gain(w, a, *w.ids.q_head_norm, gains.query, head_shape(c, s, s.heads).width);
  add_gain(w, a, *w.ids.k_head_norm, gains.key, head_shape(c, s, s.kv_heads).width);
}

}  // namespace rehearse
