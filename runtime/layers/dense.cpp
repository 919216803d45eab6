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
  ffn_forward(c, dense_ffn(c, w), w, a.h_norm.data(), a.dense, out.data());
  kernels::add(out.size(), out.data(), a.h.data(), out.data());
  if (c.again.norms) a.h_norm.release();
  return out;
}

void dense_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  post_norm_again(c, w, a);
  a.d_h_norm = c.tensor(c.model.hidden);
  ffn_input(c, dense_ffn(c, w), w, a.d_out.data(), a.dense, a.d_h_norm.data());
}

void dense_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  ffn_weight(dense_ffn(c, w),
             w,
             {.x = a.h_norm.data(),
              .d_gate_up = a.dense.d_gate_up.data(),
              .activated = a.dense.activated.data(),
              .dy = a.d_out.data()});
  a.dense = {};
}

}  // namespace rehearse
