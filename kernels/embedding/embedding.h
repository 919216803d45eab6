#pragma once
// Token embedding.

#include <cstdint>
#include <span>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

// x[t] = table[tokens[t]].  table: [vocabulary, width]; x: [tokens, width].
void embedding(std::span<const int32_t> tokens, int64_t width, const float* table, float* x);
void embedding(std::span<const int32_t> tokens, int64_t width, const Bf16* table, Bf16* x);

// d_table[tokens[t]] += dx[t], in the order of t.
void embedding_backward(std::span<const int32_t> tokens,
                        int64_t width,
                        const float* dx,
                        float* d_table);

}  // namespace rehearse::kernels
