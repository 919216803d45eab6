#include "runtime/layers/ffn.h"

#include "kernels/matmul/matmul.h"
#include "kernels/swiglu/swiglu.h"

namespace rehearse {
namespace {

kernels::MatmulShape up_shape(const FfnCall& f) {
  return {.m = f.rows, .n = 2 * f.width, .k = f.hidden};
}
kernels::MatmulShape down_shape(const FfnCall& f) {
  return {.m = f.rows, .n = f.hidden, .k = f.width};
}

}  // namespace

void ffn_up(const FfnCall& f, const LayerWeights& w, const float* x, float* gate_up) {
  kernels::matmul(up_shape(f), x, w.weights.of(f.ids.gate_up), gate_up);
}

void ffn_down(const FfnCall& f, const LayerWeights& w, const float* activated, float* y) {
  kernels::matmul(down_shape(f), activated, w.weights.of(f.ids.down), y);
}

void ffn_down_input(const FfnCall& f, const LayerWeights& w, const float* dy, float* d_activated) {
  kernels::matmul_grad_input(
      down_shape(f), dy, w.weights.of(f.ids.down), d_activated, kernels::Store::kOverwrite);
}

void ffn_up_input(const FfnCall& f, const LayerWeights& w, const float* d_gate_up, float* dx) {
  kernels::matmul_grad_input(
      up_shape(f), d_gate_up, w.weights.of(f.ids.gate_up), dx, kernels::Store::kOverwrite);
}

void ffn_weight(const FfnCall& f, const LayerWeights& w, const FfnWeightInputs& in) {
  kernels::matmul_grad_weight(down_shape(f), in.dy, in.activated, w.gradients.of(f.ids.down));
  kernels::matmul_grad_weight(up_shape(f), in.d_gate_up, in.x, w.gradients.of(f.ids.gate_up));
}

void ffn_forward(const LayerContext& c,
                 const FfnCall& f,
                 const LayerWeights& w,
                 const float* x,
                 FfnActivations& a,
                 float* y) {
  a.gate_up = Tensor(c.pool, f.rows, 2 * f.width);
  a.activated = Tensor(c.pool, f.rows, f.width);
  ffn_up(f, w, x, a.gate_up.data());
  kernels::swiglu({f.rows, f.width}, a.gate_up.data(), nullptr, a.activated.data());
  ffn_down(f, w, a.activated.data(), y);
  if (c.again.activations) a.activated.release();
}

void ffn_input(const LayerContext& c,
               const FfnCall& f,
               const LayerWeights& w,
               const float* dy,
               FfnActivations& a,
               float* dx) {
  if (a.activated.empty()) {
    a.activated = Tensor(c.pool, f.rows, f.width);
    kernels::swiglu({f.rows, f.width}, a.gate_up.data(), nullptr, a.activated.data());
  }
  Tensor d_activated(c.pool, f.rows, f.width);
  a.d_gate_up = Tensor(c.pool, f.rows, 2 * f.width);
  ffn_down_input(f, w, dy, d_activated.data());
  kernels::swiglu_backward({f.rows, f.width},
                           d_activated.data(),
                           a.gate_up.data(),
                           nullptr,
                           a.d_gate_up.data(),
                           nullptr);
  ffn_up_input(f, w, a.d_gate_up.data(), dx);
}

}  // namespace rehearse
