#pragma once
// Number formats narrower than FP32, on the CPU: BF16, FP8 E4M3 and E5M6, bit by bit.
//
// E4M3 (OCP 8-bit floating point, revision 1.0, as GPUs have it): 1 sign bit, 4 exponent bits with
// bias 7, 3 mantissa bits. Codes 0x7f and 0xff are NaN, there is no infinity, the largest value is
// 448, the smallest normal 2^-6, the smallest subnormal 2^-9.
//
// E5M6: 1 sign bit, 5 exponent bits with bias 15, 6 mantissa bits. DeepSeek-V3's report (section
// 3.3.3) names the format for what it caches behind attention and does not publish its codes; ours
// are the upper twelve bits of IEEE half precision, so that exponent 31 holds infinity (mantissa 0)
// and NaN, the largest value is 65,024, the smallest normal 2^-14, the smallest subnormal 2^-20.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define REHEARSE_HOST_DEVICE __host__ __device__
#else
#define REHEARSE_HOST_DEVICE
#endif

namespace rehearse::kernels {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr int kScaleBlock = 128;  // elements that share a scale, along one or two dimensions

struct Bf16 {
  uint16_t bits = 0;
};

inline float to_float(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

// Rounds to nearest, ties to even; NaN becomes 0x7fff, as on GPUs.
inline Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return {static_cast<uint16_t>(nan ? 0x7fff : rounded)};
}

// The value of a code; every one is exact in FP32.
inline float from_e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  const float sign = code & 0x80 ? -1.0f : 1.0f;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(0x7fffffffu);
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

// Rounds to nearest, ties to even; beyond 448, infinity included, becomes 448 of that sign, NaN
// becomes 0x7f (PTX: cvt.rn.satfinite.e4m3x2.f32).
inline uint8_t to_e4m3(float x) {
  if (std::isnan(x)) return 0x7f;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= std::bit_cast<uint32_t>(kE4m3Max)) return sign | 0x7e;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent < -6) {  // subnormal: multiples of 2^-9; a carry makes the smallest normal
    const float steps = std::bit_cast<float>(magnitude) * 512.0f;
    return sign | static_cast<uint8_t>(std::nearbyint(steps));
  }
  // Keeps 3 of 23 mantissa bits; a carry goes into the exponent, which is what it should do.
  const uint32_t rounded = magnitude + 0x7ffff + ((magnitude >> 20) & 1);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120u << 3));
}

inline constexpr float kE5m6Max = 65024.0f;

// The value of a code of twelve bits; every one is exact in FP32.
inline float from_e5m6(uint16_t code) {
  const int exponent = (code >> 6) & 31;
  const int mantissa = code & 63;
  const float sign = code & 0x800 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa == 0 ? sign * INFINITY : std::bit_cast<float>(0x7fffffffu);
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -20);
  return sign * std::ldexp(static_cast<float>(64 + mantissa), exponent - 21);
}

// Rounds to nearest, ties to even; beyond 65,024, infinity included, becomes 65,024 of that sign,
// NaN becomes 0x7ff.
inline uint16_t to_e5m6(float x) {
  if (std::isnan(x)) return 0x7ff;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 20) & 0x800);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= std::bit_cast<uint32_t>(kE5m6Max)) return sign | 0x7bf;
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent < -14) {  // subnormal: multiples of 2^-20; a carry makes the smallest normal
    const float steps = std::bit_cast<float>(magnitude) * 0x1p20f;
    return sign | static_cast<uint16_t>(std::nearbyint(steps));
  }
  // Keeps 6 of 23 mantissa bits; a carry goes into the exponent, which is what it should do.
  const uint32_t rounded = magnitude + 0xffff + ((magnitude >> 17) & 1);
  return sign | static_cast<uint16_t>((rounded >> 17) - (112u << 6));
}

// A scale, or the smallest power of two that is not below it. Never below 2^-126, so that its inverse
// is finite.
REHEARSE_HOST_DEVICE inline float rounded_scale(float scale, bool power_of_two) {
  constexpr float kSmallest = 0x1p-126f;
  if (!(scale >= kSmallest)) return kSmallest;
  if (!power_of_two) return scale;
  uint32_t bits;
  memcpy(&bits, &scale, sizeof(bits));
  if ((bits & 0x7fffff) == 0 || bits >= 0x7f800000) return scale;
  bits = (bits & 0xff800000) + 0x800000;
  float rounded_up;
  memcpy(&rounded_up, &bits, sizeof(bits));
  return rounded_up;
}

// Scale of a group of values whose largest magnitude is amax, so that amax becomes E4M3's largest
// value (DeepSeek-V3 report, section 3.3.2): value = code * scale.
//   amax / 448, or with power_of_two the smallest power of two that is not below it.
// 1 for amax of 0. Groups below 448 * 2^-126 lose precision from there on, and nothing else is
// clamped. An infinite amax gives an infinite scale: the group is lost, visibly.
REHEARSE_HOST_DEVICE inline float e4m3_scale(float amax, bool power_of_two) {
  return amax == 0 ? 1 : rounded_scale(amax / kE4m3Max, power_of_two);
}
// Likewise of E5M6: the smallest power of two that is not below amax / 65,024 (section 3.3.3:
// scales of what is cached behind attention are powers of two).
inline float e5m6_scale(float amax) {
  return amax == 0 ? 1 : rounded_scale(amax / kE5m6Max, true);
}

// What values of a group are multiplied by before they are rounded to codes: 448 / amax, rounded
// once, or with powers of two exactly 1 / scale.
REHEARSE_HOST_DEVICE inline float e4m3_inverse(float amax, float scale, bool power_of_two) {
  if (amax == 0) return 1;
  return power_of_two || scale <= 0x1p-126f ? 1 / scale : kE4m3Max / amax;
}

}  // namespace rehearse::kernels
