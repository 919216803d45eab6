#include <cmath>

#include "kernels/rmsnorm/rmsnorm.h"

namespace rehearse::kernels {

void rmsnorm_reference(const RmsNormShape& s, const double* x, const double* gain, double* y) {
  for (int64_t i = 0; i < s.rows; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < s.width; ++j) squares += x[i * s.x_stride + j] * x[i * s.x_stride + j];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(s.width) + s.eps);
    for (int64_t j = 0; j < s.width; ++j) {
      y[i * s.width + j] = x[i * s.x_stride + j] * inverse * gain[j];
    }
  }
}

}  // namespace rehearse::kernels
