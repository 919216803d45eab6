#pragma once
// Elementwise sum.

#include <cstdint>

namespace rehearse::kernels {

// y = a + b, all [elements]; y may be a or b.
void add(int64_t elements, const float* a, const float* b, float* y);

}  // namespace rehearse::kernels
