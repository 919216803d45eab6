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
  kernels::matmul(up_shape(f), x, w.weights.matrix(f.ids.gate_up), gate_up);
}

void ffn_down(const FfnCall& f, const LayerWeights& w, const float* activated, float* y) {
  kernels::matmul(down_shape(f), activated, w.weights.matrix(f.ids.down), y);
}

void ffn_down_input(const FfnCall& f, const LayerWeights& w, const float* dy, float* d_activated) {
  kernels::matmul_grad_input(
      down_shape(f), dy, w.weights.matrix(f.ids.down), d_activated, kernels::Store::kOverwrite);
}

void ffn_up_input(const FfnCall& f, const LayerWeights& w, const float* d_gate_up, float* dx) {
  kernels::matmul_grad_input(
      up_shape(f), d_gate_up, w.weights.matrix(f.ids.gate_up), dx, kernels::Store::kOverwrite);
}

void ffn_weight(const FfnCall& f, const LayerWeights& w, const FfnWeightInputs& in) {
  kernels::matmul_grad_weight(down_shape(f), in.dy, in.activated, w.gradients.of(f.ids.down));
  kernels::matmul_grad_weight(up_shape(f), in.d_gate_up, in.x, w.gradients.of(f.ids.gate_up));
}

void activate(const LayerContext& c, int64_t width, const float* row_weights, FfnActivations& a) {
  a.activated = Tensor(c.pool, a.gate_up.rows(), width);
  kernels::swiglu({a.gate_up.rows(), width}, c.fp32(a.gate_up), row_weights, a.activated.data());
  c.keep(a.activated);
}

void activate_input(const LayerContext& c,
                    const Tensor& d_activated,
                    const float* row_weights,
                    FfnActivations& a,
                    float* d_row_weights) {
  a.d_gate_up = Tensor(c.pool, a.gate_up.rows(), a.gate_up.columns());
  kernels::swiglu_backward({a.gate_up.rows(), a.gate_up.columns() / 2},
                           d_activated.data(),
                           c.fp32(a.gate_up),
                           row_weights,
                           a.d_gate_up.data(),
                           d_row_weights);
  c.keep(a.d_gate_up);
}

void ffn_forward(const LayerContext& c,
                 const FfnCall& f,
                 const LayerWeights& w,
                 const float* x,
                 FfnActivations& a,
                 float* y) {
  a.gate_up = Tensor(c.pool, f.rows, 2 * f.width);
  ffn_up(f, w, x, a.gate_up.data());
  c.keep(a.gate_up);
  activate(c, f.width, nullptr, a);
  ffn_down(f, w, c.fp32(a.activated), y);
  if (c.again.activations) a.activated.release();
}

void ffn_input(const LayerContext& c,
               const FfnCall& f,
               const LayerWeights& w,
               const float* dy,
               FfnActivations& a,
               float* dx) {
  if (a.activated.empty()) activate(c, f.width, nullptr, a);
  Tensor d_activated(c.pool, f.rows, f.width);
  ffn_down_input(f, w, dy, d_activated.data());
  activate_input(c, d_activated, nullptr, a, nullptr);
  ffn_up_input(f, w, c.fp32(a.d_gate_up), dx);
}

void ffn_weight(const LayerContext& c,
                const FfnCall& f,
                const LayerWeights& w,
                const Tensor& x,
                const Tensor& dy,
                const FfnActivations& a) {
  ffn_weight(f,
             w,
             {.x = c.fp32(x),
              .d_gate_up = c.fp32(a.d_gate_up),
              .activated = c.fp32(a.activated),
              .dy = c.fp32(dy)});
}

}  // namespace rehearse
