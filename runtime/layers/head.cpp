// The ends of the model: embedding; final norm, output projection, loss.

#include <algorithm>

#include "kernels/add/add.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "runtime/layers/activations.h"

namespace rehearse {
namespace {

kernels::MatmulShape projection_shape(const LayerContext& c) {
  return {.m = c.tokens(), .n = c.model.vocabulary, .k = c.model.hidden};
}

kernels::RmsNormShape norm_shape(const LayerContext& c) {
  return {.rows = c.tokens(),
          .width = c.model.hidden,
          .x_stride = c.model.hidden,
          .eps = c.model.norm_eps};
}

// Tokens whose target is not there take part as if it were the first of the vocabulary, and count
// for nothing.
std::vector<int32_t> some_targets(std::span<const int32_t> targets) {
  std::vector<int32_t> all(targets.begin(), targets.end());
  for (int32_t& t : all) t = std::max(t, 0);
  return all;
}

}  // namespace

Tensor embedded(const LayerContext& c, std::span<const int32_t> tokens, const ConstArray& table) {
  Tensor x(c.pool, c.tokens(), c.model.hidden, c.stored);
  if (c.stored == DType::kBf16) {
    kernels::embedding(tokens, c.model.hidden, table.bf16(), x.bf16());
  } else {
    kernels::embedding(tokens, c.model.hidden, table.fp32(), x.data());
  }
  return x;
}

double head_forward(const LayerContext& c,
                    const HeadWeights& w,
                    std::span<const int32_t> targets,
                    HeadActivations& a) {
  a.x_norm = c.tensor(c.model.hidden);
  a.x_inverse = c.tensor(1);
  kernels::rmsnorm(norm_shape(c),
                   c.fp32(a.x),
                   c.fp32(w.weights.array(w.norm)),
                   a.x_norm.data(),
                   a.x_inverse.data());
  c.keep(a.x_norm);
  a.logits = c.tensor(c.model.vocabulary);
  kernels::matmul(
      projection_shape(c), c.fp32(a.x_norm), w.weights.matrix(w.projection), a.logits.data());
  a.losses = c.tensor(1);
  a.lse = c.tensor(1);
  kernels::cross_entropy(
      some_targets(targets), c.model.vocabulary, a.logits.data(), a.losses.data(), a.lse.data());
  double sum = 0;
  for (int64_t t = 0; t < c.tokens(); ++t) {
    if (targets[static_cast<size_t>(t)] >= 0) sum += static_cast<double>(a.losses.data()[t]);
  }
  return sum;
}

Tensor head_input(const LayerContext& c,
                  const HeadWeights& w,
                  std::span<const int32_t> targets,
                  double scale,
                  const Tensor* addend,
                  HeadActivations& a) {
  kernels::cross_entropy_backward(some_targets(targets),
                                  c.model.vocabulary,
                                  static_cast<float>(scale),
                                  a.lse.data(),
                                  a.logits.data());
  for (int64_t t = 0; t < c.tokens(); ++t) {
    float* const row = a.logits.data() + t * c.model.vocabulary;
    if (targets[static_cast<size_t>(t)] < 0) std::fill_n(row, c.model.vocabulary, 0.0f);
  }
  Tensor d_x_norm = c.tensor(c.model.hidden);
  kernels::matmul_grad_input(projection_shape(c),
                             a.logits.data(),
                             w.weights.matrix(w.projection),
                             d_x_norm.data(),
                             kernels::Store::kOverwrite);
  a.d_gain = Tensor(c.pool, 1, c.model.hidden);
  a.d_gain.fill(0);
  Tensor dx = c.tensor(c.model.hidden);
  kernels::rmsnorm_backward(norm_shape(c),
                            d_x_norm.data(),
                            c.fp32(a.x),
                            c.fp32(w.weights.array(w.norm)),
                            a.x_inverse.data(),
                            c.fp32(addend != nullptr ? addend->array() : ConstArray()),
                            dx.data(),
                            a.d_gain.data());
  c.keep(dx);
  return dx;
}

void head_weight(const LayerContext& c, const HeadWeights& w, HeadActivations& a) {
  kernels::matmul_grad_weight(
      projection_shape(c), a.logits.data(), c.fp32(a.x_norm), w.gradients.of(w.projection));
  float* gain = w.gradients.of(w.norm);
  kernels::add(c.model.hidden, gain, a.d_gain.data(), gain);
}

}  // namespace rehearse
