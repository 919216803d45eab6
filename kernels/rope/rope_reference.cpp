#include <cmath>
#include <complex>

#include "kernels/rope/rope.h"

namespace rehearse::kernels {

void rope_reference(const RopeShape& s, const RopeTable& table, double theta, double* x) {
  for (int64_t i = 0; i < s.rows; ++i) {
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t p = 0; p < table.width / 2; ++p) {
        double* pair = x + i * s.row_stride + h * s.head_stride + 2 * p;
        const double angle =
            static_cast<double>(i % table.length) *
            std::pow(theta, -2.0 * static_cast<double>(p) / static_cast<double>(table.width));
        const auto turned = std::complex<double>(pair[0], pair[1]) * std::polar(1.0, angle);
        pair[0] = turned.real();
        pair[1] = turned.imag();
      }
    }
  }
}

}  // namespace rehearse::kernels
