#include "kernels/rmsnorm/rmsnorm.h"

#include <cmath>

namespace rehearse::kernels {

void rmsnorm(
    const RmsNormShape& s, const float* x, const float* gain, float* y, float* inverse_rms) {
  for (int64_t i = 0; i < s.rows; ++i) {
    const float* row = x + i * s.x_stride;
    float* out = y + i * s.width;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < s.width; ++j) squares += row[j] * row[j];
    const float inverse =
        1.0f / std::sqrt(squares / static_cast<float>(s.width) + static_cast<float>(s.eps));
    inverse_rms[i] = inverse;
#pragma omp simd
    for (int64_t j = 0; j < s.width; ++j) out[j] = row[j] * inverse * gain[j];
  }
}

void rmsnorm_backward(const RmsNormShape& s,
                      const float* dy,
                      const float* x,
                      const float* gain,
                      const float* inverse_rms,
                      const float* addend,
                      float* dx,
                      float* dgain) {
  for (int64_t i = 0; i < s.rows; ++i) {
    const float* row = x + i * s.x_stride;
    const float* grad = dy + i * s.width;
    const float* extra = addend == nullptr ? nullptr : addend + i * s.x_stride;
    float* out = dx + i * s.x_stride;
    const float inverse = inverse_rms[i];
    float dot = 0;  // sum of dy gain x
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < s.width; ++j) dot += grad[j] * gain[j] * row[j];
    const float pull = dot * inverse * inverse * inverse / static_cast<float>(s.width);
    if (extra == nullptr) {
#pragma omp simd
      for (int64_t j = 0; j < s.width; ++j) out[j] = grad[j] * gain[j] * inverse - row[j] * pull;
    } else {
#pragma omp simd
      for (int64_t j = 0; j < s.width; ++j) {
        out[j] = extra[j] + grad[j] * gain[j] * inverse - row[j] * pull;
      }
    }
#pragma omp simd
    for (int64_t j = 0; j < s.width; ++j) dgain[j] += grad[j] * row[j] * inverse;
  }
}

}  // namespace rehearse::kernels
