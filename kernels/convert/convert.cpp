#include "kernels/convert/convert.h"

#include <bit>

namespace rehearse::kernels {

void convert(int64_t elements, const Bf16* from, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) to[i] = to_float(from[i]);
}

void convert(int64_t elements, const float* from, Bf16* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) to[i] = to_bf16(from[i]);
}

// What to_e4m3 does, without branches, so that it runs on whole registers.
void encode_e4m3(int64_t elements, const float* from, float inverse, uint8_t* codes) {
  constexpr uint32_t kNan = 0x7f800000;  // magnitudes above it
  constexpr uint32_t kMost = std::bit_cast<uint32_t>(kE4m3Max);
  constexpr uint32_t kNormal = std::bit_cast<uint32_t>(0x1p-6f);
  // Adding it leaves a multiple of 2^-9, rounded to nearest even, in the last bits.
  constexpr float kSteps = 0x1p14f;
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i] * inverse);
    const uint32_t magnitude = bits & 0x7fffffff;
    const uint32_t sign = (bits >> 24) & 0x80;
    const uint32_t normal = ((magnitude + 0x7ffff + ((magnitude >> 20) & 1)) >> 20) - (120u << 3);
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + kSteps) -
                           std::bit_cast<uint32_t>(kSteps);
    uint32_t code = magnitude < kNormal ? small : normal;
    code = magnitude >= kMost ? 0x7e : code;
    code = magnitude > kNan ? 0x7f : code | sign;
    codes[i] = static_cast<uint8_t>(code);
  }
}

void decode_e4m3(int64_t elements, const uint8_t* codes, float scale, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) {
    const uint32_t code = codes[i];
    const uint32_t magnitude = code & 0x7f;
    const float small = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-9f;
    const float normal = std::bit_cast<float>((magnitude << 20) + (120u << 23));
    float value = magnitude < 8 ? small : normal;
    value = magnitude == 0x7f ? std::bit_cast<float>(0x7fffffffu) : value;
    const uint32_t sign = magnitude == 0x7f ? 0 : (code & 0x80) << 24;
    to[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign) * scale;
  }
}

float largest_magnitude(int64_t elements, const float* x) {
  // Magnitudes are in the order of their bits; NaN's are above infinity's.
  int32_t most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < elements; ++i) {
    const int32_t magnitude = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    const int32_t counted = magnitude > 0x7f800000 ? 0 : magnitude;
    most = counted > most ? counted : most;
  }
  return std::bit_cast<float>(most);
}

}  // namespace rehearse::kernels
