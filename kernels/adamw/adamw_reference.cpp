#include <cmath>

#include "kernels/adamw/adamw.h"

namespace rehearse::kernels {

void adamw_reference(const AdamWSettings& s,
                     int64_t elements,
                     const double* gradient,
                     double* weights,
                     double* m,
                     double* v) {
  for (int64_t i = 0; i < elements; ++i) {
    const double g = gradient[i] * s.gradient_scale;
    m[i] = s.beta1 * m[i] + (1 - s.beta1) * g;
    v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
    const double m_hat = m[i] / (1 - std::pow(s.beta1, static_cast<double>(s.step)));
    const double v_hat = v[i] / (1 - std::pow(s.beta2, static_cast<double>(s.step)));
    weights[i] -=
        s.learning_rate * (m_hat / (std::sqrt(v_hat) + s.eps) + s.weight_decay * weights[i]);
  }
}

}  // namespace rehearse::kernels
