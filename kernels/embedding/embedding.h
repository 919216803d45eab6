#pragma once
// Token embedding.

#include <cstdint>
#include <span>

namespace rehearse::kernels {

// x[t] = table[tokens[t]].  table: [vocabulary, width]; x: [tokens, width].
void embedding(std::span<const int32_t> tokens, int64_t width, const float* table, float* x);

// d_table[tokens[t]] += dx[t], in the order of t.
void embedding_backward(std::span<const int32_t> tokens,
                        int64_t width,
                        const float* dx,
                        float* d_table);

}  // namespace rehearse::kernels
