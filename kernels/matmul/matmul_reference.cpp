#include "kernels/matmul/matmul.h"

namespace rehearse::kernels {

void matmul_reference(const MatmulShape& s, const double* x, const double* w, double* y) {
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < s.k; ++p) sum += x[i * s.k + p] * w[j * s.k + p];
      y[i * s.n + j] = sum;
    }
  }
}

}  // namespace rehearse::kernels
