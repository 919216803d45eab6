// The feed-forward half of a leading dense layer.

#include "kernels/add/add.h"
#include "runtime/layers/ffn.h"

namespace rehearse {
namespace {

FfnCall dense_ffn(const LayerContext& c, const LayerWeights& w) {
  return {.ids = *w.ids.dense,
          .rows = c.tokens(),
          .hidden = c.model.hidden,
          .width = c.model.dense_intermediate};
}

}  // namespace

Tensor dense_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  Tensor out = c.tensor(c.model.hidden);
  ffn_forward(c, dense_ffn(c, w), w, c.fp32(a.h_norm), a.dense, out.data());
  kernels::add(out.size(), out.data(), c.fp32(a.h), out.data());
  c.keep(out);
  if (c.again.norms) a.h_norm.release();
  return out;
}

void dense_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  post_norm_again(c, w, a);
  a.d_h_norm = c.tensor(c.model.hidden);
  ffn_input(c, dense_ffn(c, w), w, c.fp32(a.d_out), a.dense, a.d_h_norm.data());
  c.keep(a.d_h_norm);
}

void dense_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  ffn_weight(c, dense_ffn(c, w), w, a.h_norm, a.d_out, a.dense);
  a.dense = {};
}

}  // namespace rehearse
