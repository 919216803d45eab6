#include "kernels/formats/tensor_core.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {
namespace {

constexpr int kK = 32;
constexpr int32_t kZero = -1000;  // exponent of zero: below all others

struct Decoded {
  std::array<float, 256> value;
  std::array<int32_t, 256> exponent;  // of the leading place, -6 for subnormals
};

const Decoded& decoded() {
  static const Decoded table = [] {
    Decoded t;
    for (int code = 0; code < 256; ++code) {
      t.value[code] = from_e4m3(static_cast<uint8_t>(code));
      t.exponent[code] = t.value[code] == 0 ? kZero : std::max((code >> 3) & 15, 1) - 7;
    }
    return t;
  }();
  return table;
}

struct Row {
  std::array<float, kK> value;
  std::array<int32_t, kK> exponent;
};

Row decode(const uint8_t* codes) {
  const Decoded& table = decoded();
  Row row;
  for (int k = 0; k < kK; ++k) {
    row.value[k] = table.value[codes[k]];
    row.exponent[k] = table.exponent[codes[k]];
  }
  return row;
}

std::vector<Row> decode(const uint8_t* codes, int rows) {
  std::vector<Row> out;
  for (int r = 0; r < rows; ++r) out.push_back(decode(codes + r * kK));
  return out;
}

float power_of_two(int exponent) {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

float one_sum(const Row& a, const Row& b, float before) {
  int32_t top = kZero;
  float products = 0;  // NaN where an operand is
  for (int k = 0; k < kK; ++k) {
    top = std::max(top, a.exponent[k] + b.exponent[k]);
    products += a.value[k] * b.value[k];
  }
  if (std::isnan(products) || std::isnan(before)) return std::numeric_limits<float>::quiet_NaN();
  if (before != 0) top = std::max(top, std::ilogb(before));
  if (top <= kZero) return 0;
  // Products of codes lie within 2^-18 and 2^18, so that no power of two here overflows.
  const float up = power_of_two(kAccumulatorBits - top);
  const float down = power_of_two(top - kAccumulatorBits);
  int32_t sum = static_cast<int32_t>(before * up);
  for (int k = 0; k < kK; ++k) sum += static_cast<int32_t>(a.value[k] * b.value[k] * up);
  const float exact = static_cast<float>(sum) * down;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(exact) &
                              ~((1u << (23 - kAccumulatorBits)) - 1));
}

}  // namespace

float tensor_core_e4m3(const uint8_t* a, const uint8_t* b, float before) {
  return one_sum(decode(a), decode(b), before);
}

void tensor_core_e4m3(const uint8_t* a, const uint8_t* b, int n, bool accumulate, float* d) {
  const std::vector<Row> rows = decode(a, 64);
  const std::vector<Row> columns = decode(b, n);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < n; ++j) {
      float& out = d[i * n + j];
      out = one_sum(
          rows[static_cast<size_t>(i)], columns[static_cast<size_t>(j)], accumulate ? out : 0);
    }
  }
}

}  // namespace rehearse::kernels
