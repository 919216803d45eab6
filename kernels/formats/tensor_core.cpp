#include "kernels/formats/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {
namespace {

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

float power_of_two(int exponent) {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

}  // namespace

float cut_to_bits(float x, int bits) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & ~((1u << (23 - bits)) - 1));
}

TensorCoreRows::TensorCoreRows(const uint8_t* codes, int64_t rows, int64_t k)
    : instructions_((k + kInstructionDepth - 1) / kInstructionDepth),
      parts_(static_cast<size_t>(rows * instructions_)) {
  const Decoded& table = decoded();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < instructions_; ++i) {
      Part& p = parts_[static_cast<size_t>(r * instructions_ + i)];
      for (int64_t j = 0; j < kInstructionDepth; ++j) {
        const int64_t at = i * kInstructionDepth + j;
        const uint8_t code = at < k ? codes[r * k + at] : 0;
        p.value[static_cast<size_t>(j)] = table.value[code];
        p.exponent[static_cast<size_t>(j)] = table.exponent[code];
      }
    }
  }
}

float TensorCoreRows::sum(const Part& a, const Part& b, float before, int bits) {
  int32_t top = kZero;
  float products = 0;  // NaN where an operand is
  for (size_t k = 0; k < kInstructionDepth; ++k) {
    top = std::max(top, a.exponent[k] + b.exponent[k]);
    products += a.value[k] * b.value[k];
  }
  if (std::isnan(products) || std::isnan(before)) return std::numeric_limits<float>::quiet_NaN();
  if (before != 0) top = std::max(top, std::ilogb(before));
  if (top <= kZero) return 0;
  // Products of codes lie within 2^-18 and 2^18, so that no power of two here overflows.
  const float up = power_of_two(bits - top);
  const float down = power_of_two(top - bits);
  int32_t all = static_cast<int32_t>(before * up);
  for (size_t k = 0; k < kInstructionDepth; ++k) {
    all += static_cast<int32_t>(a.value[k] * b.value[k] * up);
  }
  return cut_to_bits(static_cast<float>(all) * down, bits);
}

float TensorCoreRows::sum(const TensorCoreRows& a,
                          int64_t row,
                          const TensorCoreRows& b,
                          int64_t column,
                          int64_t instruction,
                          float before,
                          int bits) {
  return sum(a.part(row, instruction), b.part(column, instruction), before, bits);
}

float tensor_core_e4m3(const uint8_t* a, const uint8_t* b, float before) {
  return TensorCoreRows::sum({a, 1, kInstructionDepth}, 0, {b, 1, kInstructionDepth}, 0, 0, before);
}

void tensor_core_e4m3(const uint8_t* a, const uint8_t* b, int n, bool accumulate, float* d) {
  const TensorCoreRows rows(a, 64, kInstructionDepth);
  const TensorCoreRows columns(b, n, kInstructionDepth);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < n; ++j) {
      float& out = d[i * n + j];
      out = TensorCoreRows::sum(rows, i, columns, j, 0, accumulate ? out : 0);
    }
  }
}

}  // namespace rehearse::kernels
