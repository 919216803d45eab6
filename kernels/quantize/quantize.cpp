#include "kernels/quantize/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/convert/convert.h"

namespace rehearse::kernels {
namespace {

constexpr int64_t kTile = kScaleBlock;

struct Scale {
  Scale(float amax, bool power_of_two)
      : value(e4m3_scale(amax, power_of_two)), inverse(e4m3_inverse(amax, value, power_of_two)) {}
  float value, inverse;
};

template <typename T>
void quantize(int64_t rows,
              int64_t columns,
              const T* x,
              const ScaleRule& rule,
              uint8_t* codes,
              float* scales,
              int64_t stride) {
  for (int64_t band = 0; band < rows; band += rule.rows) {
    const int64_t end = std::min(rows, band + rule.rows);
    for (int64_t first = 0; first < columns; first += kTile) {
      const int64_t n = std::min(kTile, columns - first);
      float amax = 0;
      for (int64_t r = band; r < end; ++r) {
        amax = std::max(amax, largest_magnitude(n, x + r * columns + first));
      }
      const Scale scale(amax, rule.power_of_two);
      for (int64_t r = band; r < end; ++r) {
        const int64_t at = r * columns + first;
        scales[first / kTile * stride + r] = scale.value;
        encode_e4m3(n, x + at, scale.inverse, codes + at);
      }
    }
  }
}

// The largest magnitudes of columns over some rows.
void column_maxima(int64_t rows, int64_t columns, const float* x, int32_t* most) {
  std::fill_n(most, columns, 0);
  for (int64_t r = 0; r < rows; ++r) {
    const float* const row = x + r * columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const int32_t magnitude = std::bit_cast<int32_t>(row[c]) & 0x7fffffff;
      const int32_t counted = magnitude > 0x7f800000 ? 0 : magnitude;
      most[c] = counted > most[c] ? counted : most[c];
    }
  }
}

// Scales of the columns of one band of at most 128 rows, and their inverses.
struct ColumnScales {
  explicit ColumnScales(int64_t columns)
      : most(static_cast<size_t>(columns)), values(most.size()), inverses(most.size()) {}

  void find(int64_t rows, int64_t columns, const float* x, const ScaleRule& rule) {
    column_maxima(rows, columns, x, most.data());
    if (rule.rows > 1) {  // one for all columns of a block
      for (auto begin = most.begin(); begin < most.end();) {
        const auto end = begin + std::min<std::ptrdiff_t>(kTile, most.end() - begin);
        std::fill(begin, end, *std::max_element(begin, end));
        begin = end;
      }
    }
    for (size_t c = 0; c < most.size(); ++c) {
      const Scale scale(std::bit_cast<float>(most[c]), rule.power_of_two);
      values[c] = scale.value;
      inverses[c] = scale.inverse;
    }
  }

  std::vector<int32_t> most;
  std::vector<float> values, inverses;
};

// What the code of a value times `inverse` stands for, times `scale`.
inline float rounded(float x, float inverse, float scale) {
  constexpr uint32_t kMost = std::bit_cast<uint32_t>(kE4m3Max);
  constexpr uint32_t kNormal = std::bit_cast<uint32_t>(0x1p-6f);
  constexpr float kSteps = 0x1p14f;  // as encode_e4m3's
  const auto bits = std::bit_cast<uint32_t>(x * inverse);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t normal = (magnitude + 0x7ffff + ((magnitude >> 20) & 1)) & 0xfff00000;
  normal = normal > kMost ? kMost : normal;
  const float small = (std::bit_cast<float>(magnitude) + kSteps) - kSteps;
  uint32_t result = magnitude < kNormal ? std::bit_cast<uint32_t>(small) : normal;
  result = magnitude > 0x7f800000 ? 0x7fffffff : result | (bits & 0x80000000);
  return std::bit_cast<float>(result) * scale;
}

void encode_e5m6(int64_t elements, const float* from, float inverse, uint16_t* codes) {
  constexpr uint32_t kMost = std::bit_cast<uint32_t>(kE5m6Max);
  constexpr uint32_t kNormal = std::bit_cast<uint32_t>(0x1p-14f);
  // Adding it leaves a multiple of 2^-20, rounded to nearest even, in the last bits.
  constexpr float kSteps = 0x1p3f;
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) {
    const auto bits = std::bit_cast<uint32_t>(from[i] * inverse);
    const uint32_t magnitude = bits & 0x7fffffff;
    const uint32_t normal = ((magnitude + 0xffff + ((magnitude >> 17) & 1)) >> 17) - (112u << 6);
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + kSteps) -
                           std::bit_cast<uint32_t>(kSteps);
    uint32_t code = magnitude < kNormal ? small : normal;
    code = magnitude >= kMost ? 0x7bf : code;
    code = magnitude > 0x7f800000 ? 0x7ff : code | ((bits >> 20) & 0x800);
    codes[i] = static_cast<uint16_t>(code);
  }
}

void decode_e5m6(int64_t elements, const uint16_t* codes, float scale, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) {
    const uint32_t magnitude = codes[i] & 0x7ffu;
    const float small = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-20f;
    uint32_t bits = (magnitude << 17) + (112u << 23);
    bits = magnitude < 64 ? std::bit_cast<uint32_t>(small) : bits;
    bits = magnitude == 0x7c0 ? 0x7f800000u : bits;
    bits |= (codes[i] & 0x800u) << 20;
    bits = magnitude > 0x7c0 ? 0x7fffffffu : bits;
    to[i] = std::bit_cast<float>(bits) * scale;
  }
}

}  // namespace

void quantize_rows(int64_t rows,
                   int64_t columns,
                   const float* x,
                   const ScaleRule& rule,
                   uint8_t* codes,
                   float* scales,
                   int64_t stride) {
  quantize(rows, columns, x, rule, codes, scales, stride);
}

void quantize_rows(int64_t rows,
                   int64_t columns,
                   const Bf16* x,
                   const ScaleRule& rule,
                   uint8_t* codes,
                   float* scales,
                   int64_t stride) {
  quantize(rows, columns, x, rule, codes, scales, stride);
}

void dequantize_rows(int64_t rows,
                     int64_t columns,
                     const uint8_t* codes,
                     const float* scales,
                     int64_t stride,
                     float* x) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t first = 0; first < columns; first += kTile) {
      const int64_t at = r * columns + first;
      decode_e4m3(
          std::min(kTile, columns - first), codes + at, scales[first / kTile * stride + r], x + at);
    }
  }
}

void round_columns(int64_t rows, int64_t columns, const ScaleRule& rule, float* x) {
  ColumnScales scales(columns);
  const float* const values = scales.values.data();
  const float* const inverses = scales.inverses.data();
  for (int64_t band = 0; band < rows; band += kTile) {
    const int64_t end = std::min(rows, band + kTile);
    scales.find(end - band, columns, x + band * columns, rule);
    for (int64_t r = band; r < end; ++r) {
      float* const row = x + r * columns;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) row[c] = rounded(row[c], inverses[c], values[c]);
    }
  }
}

void quantize_columns(int64_t rows,
                      int64_t columns,
                      const float* x,
                      const ScaleRule& rule,
                      uint8_t* codes,
                      float* scales,
                      int64_t stride) {
  ColumnScales found(columns);
  std::array<float, kTile> values;
  for (int64_t band = 0; band < rows; band += kTile) {
    const int64_t n = std::min(kTile, rows - band);
    found.find(n, columns, x + band * columns, rule);
    std::copy(found.values.begin(), found.values.end(), scales + band / kTile * stride);
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < n; ++i) {
        values[static_cast<size_t>(i)] = x[(band + i) * columns + c];
      }
      encode_e4m3(
          n, values.data(), found.inverses[static_cast<size_t>(c)], codes + c * rows + band);
    }
  }
}

void quantize_blocks(int64_t rows,
                     int64_t columns,
                     const Bf16* x,
                     bool power_of_two,
                     uint8_t* codes,
                     float* scales) {
  const int64_t across = (columns + kTile - 1) / kTile;
  for (int64_t top = 0; top < rows; top += kTile) {
    const int64_t end = std::min(rows, top + kTile);
    for (int64_t left = 0; left < columns; left += kTile) {
      const int64_t width = std::min(kTile, columns - left);
      float amax = 0;
      for (int64_t r = top; r < end; ++r) {
        amax = std::max(amax, largest_magnitude(width, x + r * columns + left));
      }
      const Scale scale(amax, power_of_two);
      scales[top / kTile * across + left / kTile] = scale.value;
      for (int64_t r = top; r < end; ++r) {
        encode_e4m3(width, x + r * columns + left, scale.inverse, codes + r * columns + left);
      }
    }
  }
}

void dequantize_blocks(int64_t first,
                       int64_t rows,
                       int64_t columns,
                       const uint8_t* codes,
                       const float* scales,
                       float* x) {
  const int64_t across = (columns + kTile - 1) / kTile;
  for (int64_t r = first; r < first + rows; ++r) {
    for (int64_t left = 0; left < columns; left += kTile) {
      decode_e4m3(std::min(kTile, columns - left),
                  codes + r * columns + left,
                  scales[r / kTile * across + left / kTile],
                  x + (r - first) * columns + left);
    }
  }
}

void pack_e5m6(
    int64_t rows, int64_t columns, const float* x, uint8_t* packed, float* scales, int64_t stride) {
  std::array<uint16_t, kTile> codes;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t first = 0; first < columns; first += kTile) {
      const int64_t n = std::min(kTile, columns - first);
      const float* const from = x + r * columns + first;
      const float scale = e5m6_scale(largest_magnitude(n, from));
      scales[first / kTile * stride + r] = scale;
      encode_e5m6(n, from, 1 / scale, codes.data());
      uint8_t* to = packed + r * e5m6_bytes(columns) + e5m6_bytes(first);
      if (n % 2 == 1) codes[static_cast<size_t>(n)] = 0;
      size_t i = 0;
      for (; i + 4 <= static_cast<size_t>(n); i += 4, to += 6) {  // four codes, six bytes
        const uint64_t four = codes[i] | static_cast<uint64_t>(codes[i + 1]) << 12 |
                              static_cast<uint64_t>(codes[i + 2]) << 24 |
                              static_cast<uint64_t>(codes[i + 3]) << 36;
        std::memcpy(to, &four, 6);
      }
      for (; i < static_cast<size_t>(n); i += 2) {
        const uint32_t both = codes[i] | static_cast<uint32_t>(codes[i + 1]) << 12;
        const size_t bytes = i + 1 < static_cast<size_t>(n) ? 3 : 2;
        std::memcpy(to, &both, bytes);
        to += bytes;
      }
    }
  }
}

void unpack_e5m6(int64_t rows,
                 int64_t columns,
                 const uint8_t* packed,
                 const float* scales,
                 int64_t stride,
                 float* x) {
  std::array<uint16_t, kTile> codes;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t first = 0; first < columns; first += kTile) {
      const int64_t n = std::min(kTile, columns - first);
      const uint8_t* from = packed + r * e5m6_bytes(columns) + e5m6_bytes(first);
      size_t i = 0;
      for (; i + 4 <= static_cast<size_t>(n); i += 4, from += 6) {
        uint32_t low;
        uint16_t high;
        std::memcpy(&low, from, 4);
        std::memcpy(&high, from + 4, 2);
        const uint64_t four = low | static_cast<uint64_t>(high) << 32;
        codes[i] = four & 0xfff;
        codes[i + 1] = (four >> 12) & 0xfff;
        codes[i + 2] = (four >> 24) & 0xfff;
        codes[i + 3] = static_cast<uint16_t>(four >> 36);
      }
      for (; i < static_cast<size_t>(n); i += 2) {
        const bool pair = i + 1 < static_cast<size_t>(n);
        const uint32_t both = from[0] | static_cast<uint32_t>(from[1]) << 8 |
                              (pair ? static_cast<uint32_t>(from[2]) << 16 : 0);
        codes[i] = both & 0xfff;
        codes[i + 1] = static_cast<uint16_t>(both >> 12);  // tiles have an even number of places
        from += 3;
      }
      decode_e5m6(n, codes.data(), scales[first / kTile * stride + r], x + r * columns + first);
    }
  }
}

}  // namespace rehearse::kernels
