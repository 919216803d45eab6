#include <cmath>

#include "kernels/swiglu/swiglu.h"

namespace rehearse::kernels {

void swiglu_reference(const SwigluShape& s,
                      const double* gate_up,
                      const double* row_weight,
                      double* y) {
  for (int64_t i = 0; i < s.rows; ++i) {
    for (int64_t j = 0; j < s.width; ++j) {
      const double gate = gate_up[2 * i * s.width + j];
      const double up = gate_up[(2 * i + 1) * s.width + j];
      const double weight = row_weight == nullptr ? 1 : row_weight[i];
      y[i * s.width + j] = weight * gate / (1 + std::exp(-gate)) * up;
    }
  }
}

}  // namespace rehearse::kernels
