#pragma once
// Between FP32 and BF16 or FP8, many values at once.

#include <cstdint>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

// Exact.
void convert(int64_t elements, const Bf16* from, float* to);
// To nearest, ties to even, as to_bf16.
void convert(int64_t elements, const float* from, Bf16* to);

// Of E4M3's codes, values times `scale`: the same bits as from_e4m3(code) * scale.
void decode_e4m3(int64_t elements, const uint8_t* codes, float scale, float* to);
// Codes of values times `inverse`: the same as to_e4m3(x * inverse).
void encode_e4m3(int64_t elements, const float* from, float inverse, uint8_t* codes);
void encode_e4m3(int64_t elements, const Bf16* from, float inverse, uint8_t* codes);
// The largest magnitude, NaN left out: what a group's scale follows from. 0 of nothing.
float largest_magnitude(int64_t elements, const float* x);
float largest_magnitude(int64_t elements, const Bf16* x);

}  // namespace rehearse::kernels
