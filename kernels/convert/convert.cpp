#include "kernels/convert/convert.h"

#include <bit>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace rehearse::kernels {

void convert(int64_t elements, const Bf16* from, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) to[i] = to_float(from[i]);
}

void convert(int64_t elements, const float* from, Bf16* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) to[i] = to_bf16(from[i]);
}

// What to_e4m3 does, without branches: adding 2^20 times the power of two at or below a value (of
// subnormals the smallest normal) leaves its multiple of 2^-3 of that, rounded to nearest even, in
// the last bits; beside it stands the exponent in eighths.
namespace {

constexpr int32_t kNan = 0x7f800000;  // magnitudes above it
constexpr int32_t kMost = std::bit_cast<int32_t>(kE4m3Max);
constexpr int32_t kNormal = std::bit_cast<int32_t>(0x1p-6f);
constexpr int32_t kUp = 20 << 23;  // of the exponent

#ifdef __AVX2__
__m256 load_eight(const float* from) {
  return _mm256_loadu_ps(from);
}
__m256 load_eight(const Bf16* from) {
  const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
}

// Eight at a time; compilers take twice as long for the loop below.
template <typename T>
__m256i encode_eight(const T* from, __m256 inverse) {
  const auto all = [](int32_t x) { return _mm256_set1_epi32(x); };
  const __m256i bits = _mm256_castps_si256(_mm256_mul_ps(load_eight(from), inverse));
  const __m256i magnitude = _mm256_and_si256(bits, all(0x7fffffff));
  const __m256i value = _mm256_min_epi32(magnitude, all(kMost));
  const __m256i power = _mm256_max_epi32(_mm256_and_si256(value, all(0x7f800000)), all(kNormal));
  const __m256i large = _mm256_add_epi32(power, all(kUp));
  const __m256i sum =
      _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(value), _mm256_castsi256_ps(large)));
  const __m256i exponent = _mm256_srli_epi32(_mm256_sub_epi32(power, all(kNormal)), 20);
  const __m256i code = _mm256_add_epi32(exponent, _mm256_sub_epi32(sum, large));
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), all(0x80));
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, all(kNan));
  return _mm256_blendv_epi8(_mm256_or_si256(code, sign), all(0x7f), nan);
}

template <typename T>
int64_t encode_most(int64_t elements, const T* from, float inverse, uint8_t* codes) {
  const __m256 by = _mm256_set1_ps(inverse);
  int64_t i = 0;
  for (; i + 32 <= elements; i += 32) {
    const __m256i low =
        _mm256_packus_epi32(encode_eight(from + i, by), encode_eight(from + i + 8, by));
    const __m256i high =
        _mm256_packus_epi32(encode_eight(from + i + 16, by), encode_eight(from + i + 24, by));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs go by halves
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i),
                        _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
  }
  return i;
}
#else
template <typename T>
int64_t encode_most(int64_t, const T*, float, uint8_t*) {
  return 0;
}
#endif

float value_of(float x) {
  return x;
}
float value_of(Bf16 x) {
  return to_float(x);
}

template <typename T>
void encode(int64_t elements, const T* from, float inverse, uint8_t* codes) {
#pragma omp simd
  for (int64_t i = encode_most(elements, from, inverse, codes); i < elements; ++i) {
    const auto bits = std::bit_cast<int32_t>(value_of(from[i]) * inverse);
    const int32_t magnitude = bits & 0x7fffffff;
    const int32_t value = magnitude < kMost ? magnitude : kMost;
    const int32_t exponent = value & 0x7f800000;
    const int32_t power = exponent > kNormal ? exponent : kNormal;
    const int32_t large = power + kUp;
    const int32_t steps =
        std::bit_cast<int32_t>(std::bit_cast<float>(value) + std::bit_cast<float>(large)) - large;
    const int32_t code = (((power - kNormal) >> 20) + steps) | ((bits >> 24) & 0x80);
    codes[i] = static_cast<uint8_t>(magnitude > kNan ? 0x7f : code);
  }
}

}  // namespace

void encode_e4m3(int64_t elements, const float* from, float inverse, uint8_t* codes) {
  encode(elements, from, inverse, codes);
}
void encode_e4m3(int64_t elements, const Bf16* from, float inverse, uint8_t* codes) {
  encode(elements, from, inverse, codes);
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

float largest_magnitude(int64_t elements, const Bf16* x) {
  int16_t most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < elements; ++i) {
    const auto magnitude = static_cast<int16_t>(x[i].bits & 0x7fff);
    const int16_t counted = magnitude > 0x7f80 ? int16_t{0} : magnitude;
    most = counted > most ? counted : most;
  }
  return to_float({static_cast<uint16_t>(most)});
}

}  // namespace rehearse::kernels
