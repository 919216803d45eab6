#pragma once
// Between FP32 and BF16, many values at once.

#include <cstdint>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

// Exact.
void convert(int64_t elements, const Bf16* from, float* to);
// To nearest, ties to even, as to_bf16.
void convert(int64_t elements, const float* from, Bf16* to);

}  // namespace rehearse::kernels
