#include "kernels/adamw/adamw.h"

#include <algorithm>
#include <cmath>

namespace rehearse::kernels {
namespace {

float wide(float x) {
  return x;
}
float wide(Bf16 x) {
  return to_float(x);
}
void store(float x, float& to) {
  to = x;
}
void store(float x, Bf16& to) {
  to = to_bf16(x);
}

template <typename Moment>
void update(const AdamWSettings& s,
            int64_t elements,
            const float* gradient,
            float* weights,
            Moment* m,
            Moment* v) {
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
    const float first = beta1 * wide(m[i]) + (1.0f - beta1) * g;
    const float second = beta2 * wide(v[i]) + (1.0f - beta2) * g * g;
    store(first, m[i]);
    store(second, v[i]);
    weights[i] = weights[i] * keep - rate * first / (std::sqrt(second) * root + eps);
  }
}

}  // namespace

void adamw(const AdamWSettings& s,
           int64_t elements,
           const float* gradient,
           float* weights,
           float* m,
           float* v) {
  update(s, elements, gradient, weights, m, v);
}

void adamw(const AdamWSettings& s,
           int64_t elements,
           const float* gradient,
           float* weights,
           Bf16* m,
           Bf16* v) {
  update(s, elements, gradient, weights, m, v);
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
