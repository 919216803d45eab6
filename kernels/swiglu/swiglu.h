#pragma once
// SwiGLU: y = weight * silu(gate) * up, silu(g) = g / (1 + exp(-g)). The routing weight of a row is
// applied here, before combine (DeepSeek's published profile).

#include <cstdint>

namespace rehearse::kernels {

struct SwigluShape {
  int64_t rows = 0;
  int64_t width = 0;
};

// gate_up: [rows, 2 width], gate first; row_weight: [rows], or null for 1; y: [rows, width].
void swiglu(const SwigluShape& s, const float* gate_up, const float* row_weight, float* y);

// d_gate_up: [rows, 2 width]; d_row_weight: [rows], null exactly when row_weight is.
void swiglu_backward(const SwigluShape& s,
                     const float* dy,
                     const float* gate_up,
                     const float* row_weight,
                     float* d_gate_up,
                     float* d_row_weight);

void swiglu_reference(const SwigluShape& s,
                      const double* gate_up,
                      const double* row_weight,
                      double* y);

}  // namespace rehearse::kernels
