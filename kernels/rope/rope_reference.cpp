#include <cmath>
#include <complex>

#include "kernels/rope/rope.h"

namespace rehearse::kernels {

void rope_reference(const RopeShape& s, const RopeTable& table, double theta, double* x) {
  for (int64_t i = 0; i < s.rows; ++i) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t p = 0; p < table.width / 2; ++p) {
        const bool halves = s.pairs == RopePairs::kHalves;
        double* const head = x + i * s.row_stride + h * s.head_stride;
        double& real = head[halves ? p : 2 * p];
        double& imaginary = head[halves ? table.width / 2 + p : 2 * p + 1];
        const double angle =
            static_cast<double>(i % table.length) *
            std::pow(theta, -2.0 * static_cast<double>(p) / static_cast<double>(table.width));
        const auto turned = std::complex<double>(real, imaginary) * std::polar(1.0, angle);
        real = turned.real();
        imaginary = turned.imag();
      }
    }
  }
}

}  // namespace rehearse::kernels
