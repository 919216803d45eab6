#include "kernels/rope/rope.h"

#include <cmath>

namespace rehearse::kernels {

namespace {

std::vector<double> plain_frequencies(int64_t width, double theta) {
  std::vector<double> all;
  for (int64_t p = 0; p < width / 2; ++p) {
    all.push_back(std::pow(theta, -2.0 * static_cast<double>(p) / static_cast<double>(width)));
  }
  return all;
}

}  // namespace

RopeTable::RopeTable(int64_t length_, int64_t width_, double theta)
    : RopeTable(length_, plain_frequencies(width_, theta), 1) {}

RopeTable::RopeTable(int64_t length_, std::span<const double> frequencies, double amplitude)
    : length(length_), width(2 * static_cast<int64_t>(frequencies.size())) {
  for (int64_t t = 0; t < length; ++t) {
    for (const double f : frequencies) {
      const double angle = static_cast<double>(t) * f;
      cosine.push_back(static_cast<float>(amplitude * std::cos(angle)));
      sine.push_back(static_cast<float>(amplitude * std::sin(angle)));
    }
  }
}

void rope(const RopeShape& s, const RopeTable& table, Turn turn, float* x) {
  const int64_t pairs = table.width / 2;
  // Elements from pair to pair, and within a pair.
  const bool halves = s.pairs == RopePairs::kHalves;
  const int64_t next = halves ? 1 : 2;
  const int64_t second = halves ? pairs : 1;
  const float sign = turn == Turn::kForward ? 1.0f : -1.0f;
  for (int64_t i = 0; i < s.rows; ++i) {
    const int64_t position = i % table.length;
    const float* cosine = table.cosine.data() + position * pairs;
    const float* sine = table.sine.data() + position * pairs;
    for (int64_t h = 0; h < s.heads; ++h) {
      float* v = x + i * s.row_stride + h * s.head_stride;
      for (int64_t p = 0; p < pairs; ++p) {
        float& first = v[next * p];
        float& other = v[next * p + second];
        const float a = first;
        const float b = other;
        first = a * cosine[p] - sign * b * sine[p];
        other = sign * a * sine[p] + b * cosine[p];
      }
    }
  }
}

}  // namespace rehearse::kernels
