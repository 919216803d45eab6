#include "kernels/reduce/reduce.h"

#include <algorithm>
#include <array>

namespace rehearse::kernels {

void reduce(std::span<const float* const> copies, int64_t elements, float* out) {
  constexpr int64_t kBlock = 2048;  // the block's sum stays in the first-level cache
  std::array<float, kBlock> sum;
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t n = std::min(kBlock, elements - begin);
    std::copy(copies[0] + begin, copies[0] + begin + n, sum.begin());
    for (size_t c = 1; c < copies.size(); ++c) {
      const float* copy = copies[c] + begin;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) sum[static_cast<size_t>(i)] += copy[i];
    }
    std::copy(sum.begin(), sum.begin() + n, out + begin);
  }
}

}  // namespace rehearse::kernels
