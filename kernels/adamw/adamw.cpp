#include "kernels/adamw/adamw.h"

#include <algorithm>
#include <cmath>

namespace rehearse::kernels {

void adamw(const AdamWSettings& s,
           int64_t elements,
           const float* gradient,
           float* weights,
           float* m,
           float* v) {
  const auto beta1 = static_cast<float>(s.beta1);
  const auto beta2 = static_cast<float>(s.beta2);
  const auto scale = static_cast<float>(s.gradient_scale);
  const double correct1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correct2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  const auto rate = static_cast<float>(s.learning_rate / correct1);
  const auto root = static_cast<float>(1 / std::sqrt(correct2));
  const auto eps = static_cast<float>(s.eps);
  const auto keep = static_cast<float>(1 - s.learning_rate * s.weight_decay);
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) {
    const float g = gradient[i] * scale;
    m[i] = beta1 * m[i] + (1.0f - beta1) * g;
    v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
    weights[i] = weights[i] * keep - rate * m[i] / (std::sqrt(v[i]) * root + eps);
  }
}

double square_sum(int64_t elements, const float* x) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t end = std::min(elements, begin + kBlock);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    total += sum;
  }
  return total;
}

}  // namespace rehearse::kernels
