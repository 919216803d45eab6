#include "runtime/layers/mtp.h"

#include <algorithm>

#include "kernels/add/add.h"
#include "kernels/embedding/embedding.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace rehearse {
namespace {

kernels::MatmulShape both_shape(const LayerContext& c) {
  return {.m = c.tokens(), .n = c.model.hidden, .k = 2 * c.model.hidden};
}

kernels::RmsNormShape half_norm_shape(const LayerContext& c) {
  return {.rows = c.tokens(),
          .width = c.model.hidden,
          .x_stride = c.model.hidden,
          .eps = c.model.norm_eps};
}

// One half of the projection's input, 0 the embeddings', from rows of their own; and back.
void to_half(const LayerContext& c, int64_t half, const Tensor& rows, Tensor& both) {
  const int64_t d = c.model.hidden;
  for (int64_t t = 0; t < c.tokens(); ++t) {
    std::copy_n(rows.data() + t * d, d, both.data() + (2 * t + half) * d);
  }
}
Tensor of_half(const LayerContext& c, int64_t half, const Tensor& both) {
  const int64_t d = c.model.hidden;
  Tensor rows = c.tensor(d);
  for (int64_t t = 0; t < c.tokens(); ++t) {
    std::copy_n(both.data() + (2 * t + half) * d, d, rows.data() + t * d);
  }
  return rows;
}

}  // namespace

Tensor mtp_forward(const LayerContext& c,
                   const MtpWeights& w,
                   const Tensor& hidden,
                   MtpActivations& a) {
  const int64_t d = c.model.hidden;
  a.embedded = embedded(c, a.tokens, w.table.array(w.embedding));
  a.both = c.tensor(2 * d);
  Tensor normed = c.tensor(d);
  const auto norm_half = [&](ParameterId gain, int64_t half, const Tensor& x, Tensor& inverse) {
    inverse = c.tensor(1);
    kernels::rmsnorm(half_norm_shape(c),
                     c.fp32(x),
                     c.fp32(w.weights.array(gain)),
                     normed.data(),
                     inverse.data());
    to_half(c, half, normed, a.both);
  };
  norm_half(w.ids.embedding_norm, 0, a.embedded, a.embedded_inverse);
  norm_half(w.ids.hidden_norm, 1, hidden, a.hidden_inverse);
  normed.release();
  c.keep(a.both);
  Tensor x = c.tensor(d);
  kernels::matmul(both_shape(c), c.fp32(a.both), w.weights.matrix(w.ids.projection), x.data());
  c.keep(x);
  return x;
}

void mtp_input(const LayerContext& c,
               const MtpWeights& w,
               const Tensor& hidden,
               MtpActivations& a) {
  const int64_t d = c.model.hidden;
  Tensor d_both = c.tensor(2 * d);
  kernels::matmul_grad_input(both_shape(c),
                             c.fp32(a.d_x),
                             w.weights.matrix(w.ids.projection),
                             d_both.data(),
                             kernels::Store::kOverwrite);
  a.d_gains = Tensor(c.pool, 1, 2 * d);
  a.d_gains.fill(0);
  const auto norm_back =
      [&](ParameterId gain, int64_t half, const Tensor& x, const Tensor& inverse, Tensor& dx) {
        const Tensor dy = of_half(c, half, d_both);
        dx = c.tensor(d);
        kernels::rmsnorm_backward(half_norm_shape(c),
                                  dy.data(),
                                  c.fp32(x),
                                  c.fp32(w.weights.array(gain)),
                                  inverse.data(),
                                  nullptr,
                                  dx.data(),
                                  a.d_gains.data() + half * d);
        c.keep(dx);
      };
  norm_back(w.ids.embedding_norm, 0, a.embedded, a.embedded_inverse, a.d_embedded);
  norm_back(w.ids.hidden_norm, 1, hidden, a.hidden_inverse, a.d_hidden);
  a.embedded.release();
}

void mtp_weight(const LayerContext& c, const MtpWeights& w, MtpActivations& a) {
  const int64_t d = c.model.hidden;
  kernels::matmul_grad_weight(
      both_shape(c), c.fp32(a.d_x), c.fp32(a.both), w.gradients.of(w.ids.projection));
  float* const of_embedding = w.gradients.of(w.ids.embedding_norm);
  float* const of_hidden = w.gradients.of(w.ids.hidden_norm);
  kernels::add(d, of_embedding, a.d_gains.data(), of_embedding);
  kernels::add(d, of_hidden, a.d_gains.data() + d, of_hidden);
  kernels::embedding_backward(a.tokens, d, c.fp32(a.d_embedded), w.table_gradients.of(w.embedding));
  a.both.release();
  a.d_x.release();
  a.d_embedded.release();
  a.d_gains.release();
}

}  // namespace rehearse
