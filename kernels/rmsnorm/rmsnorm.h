#pragma once
// RMSNorm: y = x / sqrt(mean(x^2) + eps) * gain, row by row.

#include <cstdint>

namespace rehearse::kernels {

struct RmsNormShape {
  int64_t rows = 0;
  int64_t width = 0;
  int64_t x_stride = 0;  // elements between rows of x (and dx); at least width
  double eps = 1e-6;
};

// x: [rows, width] with x_stride; gain: [width]; y: [rows, width] dense;
// inverse_rms: [rows], 1 / sqrt(mean(x^2) + eps), which the backward pass needs.
void rmsnorm(
    const RmsNormShape& s, const float* x, const float* gain, float* y, float* inverse_rms);

// dx = addend + the input gradient; dgain += the gain's gradient.
// dy: [rows, width] dense; addend: [rows, width] with x_stride or null; dx: like x.
void rmsnorm_backward(const RmsNormShape& s,
                      const float* dy,
                      const float* x,
                      const float* gain,
                      const float* inverse_rms,
                      const float* addend,
                      float* dx,
                      float* dgain);

void rmsnorm_reference(const RmsNormShape& s, const double* x, const double* gain, double* y);

}  // namespace rehearse::kernels
