#include "kernels/swiglu/swiglu.h"

#include <Eigen/Core>

namespace rehearse::kernels {
namespace {

using In = Eigen::Map<const Eigen::ArrayXf>;
using Out = Eigen::Map<Eigen::ArrayXf>;

}  // namespace

void swiglu(const SwigluShape& s, const float* gate_up, const float* row_weight, float* y) {
  for (int64_t i = 0; i < s.rows; ++i) {
    const In gate(gate_up + 2 * i * s.width, s.width);
    const In up(gate_up + (2 * i + 1) * s.width, s.width);
    const float weight = row_weight == nullptr ? 1.0f : row_weight[i];
    Out(y + i * s.width, s.width) = weight * gate * up / (1.0f + (-gate).exp());
  }
}

void swiglu_backward(const SwigluShape& s,
                     const float* dy,
                     const float* gate_up,
                     const float* row_weight,
                     float* d_gate_up,
                     float* d_row_weight) {
  Eigen::ArrayXf sigmoid(s.width);
  for (int64_t i = 0; i < s.rows; ++i) {
    const In gate(gate_up + 2 * i * s.width, s.width);
    const In up(gate_up + (2 * i + 1) * s.width, s.width);
    const In grad(dy + i * s.width, s.width);
    sigmoid = 1.0f / (1.0f + (-gate).exp());
    if (d_row_weight != nullptr) d_row_weight[i] = (grad * gate * sigmoid * up).sum();
    const float weight = row_weight == nullptr ? 1.0f : row_weight[i];
    Out(d_gate_up + 2 * i * s.width, s.width) =
        weight * grad * up * sigmoid * (1.0f + gate * (1.0f - sigmoid));
    Out(d_gate_up + (2 * i + 1) * s.width, s.width) = weight * grad * gate * sigmoid;
  }
}

}  // namespace rehearse::kernels
