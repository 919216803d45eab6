#include "runtime/layers/mtp.h"

namespace rehearse {

Tensor mtp_forward(const LayerContext& c,
                   const MtpWeights& w,
                   const Tensor& hidden,
                   MtpActivations& a) {
  const int64_t d = c.model.hidden;
  a.embedded = embedded(c, a.tokens, w.table.array(w.embedding));
  a.both = c.compute.make(c.tokens(), 2 * d, DType::kFp32);
  // One half of the projection's input, the embeddings' first.
  const auto norm_half = [&](ParameterId gain, int64_t first, const Tensor& x, Tensor& inverse) {
    Normed n = c.compute.norm(x, w.weights.array(gain), c.model.norm_eps, DType::kFp32);
    inverse = std::move(n.inverse);
    c.compute.put_columns(n.y, first, a.both);
  };
  norm_half(w.ids.embedding_norm, 0, a.embedded, a.embedded_inverse);
  norm_half(w.ids.hidden_norm, d, hidden, a.hidden_inverse);
  a.both = c.compute.in_type(std::move(a.both), c.recipe.products.activation);
  return c.compute.product(a.both, w.weights.operand(w.ids.projection), c.recipe.kept);
}

void mtp_input(const LayerContext& c,
               const MtpWeights& w,
               const Tensor& hidden,
               MtpActivations& a) {
  const int64_t d = c.model.hidden;
  const Tensor d_both = c.compute.product_input(c.as(a.d_x, c.recipe.products.gradient),
                                                w.weights.operand(w.ids.projection));
  a.d_gains = c.compute.zeros(1, 2 * d);
  const auto norm_back =
      [&](ParameterId gain, int64_t first, const Tensor& x, const Tensor& inverse) {
        const Tensor dy = c.compute.columns(d_both, {.first = first, .count = d});
        return c.kept(c.compute.norm_input({.dy = dy,
                                            .x = x,
                                            .gain = w.weights.array(gain),
                                            .inverse = inverse,
                                            .addend = {},
                                            .d_gain = part_of(a.d_gains.array(), first, d)},
                                           c.model.norm_eps));
      };
  a.d_embedded = norm_back(w.ids.embedding_norm, 0, a.embedded, a.embedded_inverse);
  a.d_hidden = norm_back(w.ids.hidden_norm, d, hidden, a.hidden_inverse);
  a.embedded.release();
}

void mtp_weight(const LayerContext& c, const MtpWeights& w, MtpActivations& a) {
  const int64_t d = c.model.hidden;
  const ProductFormats& p = c.recipe.products;
  c.compute.product_weight(a.d_x,
                           a.both,
                           c.recipe.along_tokens(p.gradient, p.activation),
                           w.gradients.array(w.ids.projection));
  c.compute.accumulate(part_of(a.d_gains.array(), 0, d), w.gradients.array(w.ids.embedding_norm));
  c.compute.accumulate(part_of(a.d_gains.array(), d, d), w.gradients.array(w.ids.hidden_norm));
  embedding_weight(c, a.tokens, a.d_embedded, w.table_gradients.array(w.embedding));
  a.both.release();
  a.d_x.release();
  a.d_embedded.release();
  a.d_gains.release();
}

}  // namespace rehearse
