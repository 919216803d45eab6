#include "kernels/embedding/embedding.h"

#include <cstring>

namespace rehearse::kernels {

namespace {

template <typename T>
void gather(std::span<const int32_t> tokens, int64_t width, const T* table, T* x) {
  for (size_t t = 0; t < tokens.size(); ++t) {
    std::memcpy(x + static_cast<int64_t>(t) * width,
                table + tokens[t] * width,
                static_cast<size_t>(width) * sizeof(T));
  }
}

}  // namespace

void embedding(std::span<const int32_t> tokens, int64_t width, const float* table, float* x) {
  gather(tokens, width, table, x);
}
void embedding(std::span<const int32_t> tokens, int64_t width, const Bf16* table, Bf16* x) {
  gather(tokens, width, table, x);
}

void embedding_backward(std::span<const int32_t> tokens,
                        int64_t width,
                        const float* dx,
                        float* d_table) {
  for (size_t t = 0; t < tokens.size(); ++t) {
    float* row = d_table + tokens[t] * width;
    const float* grad = dx + static_cast<int64_t>(t) * width;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) row[j] += grad[j];
  }
}

}  // namespace rehearse::kernels
