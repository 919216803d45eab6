// The feed-forward half of a leading dense layer.

#include "runtime/layers/ffn.h"

namespace rehearse {

Tensor dense_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  Tensor out = ffn_forward(c, *w.ids.dense, w, a.h_norm, a.h, a.dense);
  if (c.again.norms) a.h_norm.release();
  return out;
}

void dense_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  post_norm_again(c, w, a);
  a.d_h_norm = ffn_input(c, *w.ids.dense, w, a.d_out, a.dense);
}

void dense_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  ffn_weight(c, *w.ids.dense, w, a.h_norm, a.d_out, a.dense);
  a.dense = {};
}

}  // namespace rehearse
