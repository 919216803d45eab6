#include "kernels/rope/rope.h"

#include <cmath>

namespace rehearse::kernels {

RopeTable::RopeTable(int64_t length_, int64_t width_, double theta)
    : length(length_), width(width_) {
  const int64_t pairs = width / 2;
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t p = 0; p < pairs; ++p) {
      const double angle =
          static_cast<double>(t) *
          std::pow(theta, -2.0 * static_cast<double>(p) / static_cast<double>(width));
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void rope(const RopeShape& s, const RopeTable& table, Turn turn, float* x) {
  const int64_t pairs = table.width / 2;
  const float sign = turn == Turn::kForward ? 1.0f : -1.0f;
  for (int64_t i = 0; i < s.rows; ++i) {
    const int64_t position = i % table.length;
    const float* cosine = table.cosine.data() + position * pairs;
    const float* sine = table.sine.data() + position * pairs;
    for (int64_t h = 0; h < s.heads; ++h) {
      float* v = x + i * s.row_stride + h * s.head_stride;
      for (int64_t p = 0; p < pairs; ++p) {
        const float a = v[2 * p];
        const float b = v[2 * p + 1];
        v[2 * p] = a * cosine[p] - sign * b * sine[p];
        v[2 * p + 1] = sign * a * sine[p] + b * cosine[p];
      }
    }
  }
}

}  // namespace rehearse::kernels
