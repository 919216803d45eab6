#include "runtime/memory/array.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "kernels/convert/convert.h"
#include "kernels/reduce/reduce.h"

namespace rehearse {
namespace {

using kernels::Bf16;

// The values of a row, from column `first` on, as FP32.
void read(const ConstArray& a, int64_t row, int64_t first, std::span<float> out) {
  const int64_t at = row * a.extent.columns + first;
  switch (a.extent.type) {
    case DType::kFp32:
      std::copy_n(a.fp32() + at, out.size(), out.data());
      return;
    case DType::kBf16:
      kernels::convert(static_cast<int64_t>(out.size()), a.bf16() + at, out.data());
      return;
    case DType::kFp8: {
      const float scale = a.scales[row * a.extent.tiles() + first / kernels::kScaleBlock];
      kernels::decode_e4m3(static_cast<int64_t>(out.size()), a.codes() + at, scale, out.data());
      return;
    }
    default:
      CHECK(false) << "no values of FP32 in " << to_string(a.extent);
  }
}

// The other way; `values` are of one tile.
void write(const Array& a, int64_t row, int64_t first, std::span<const float> values) {
  const int64_t at = row * a.extent.columns + first;
  switch (a.extent.type) {
    case DType::kFp32:
      std::copy(values.begin(), values.end(), a.fp32() + at);
      return;
    case DType::kBf16:
      kernels::convert(static_cast<int64_t>(values.size()), values.data(), a.bf16() + at);
      return;
    case DType::kFp8: {
      const auto count = static_cast<int64_t>(values.size());
      const float amax = kernels::largest_magnitude(count, values.data());
      const float scale = kernels::e4m3_scale(amax, false);
      const float inverse = kernels::e4m3_inverse(amax, scale, false);
      a.scales[row * a.extent.tiles() + first / kernels::kScaleBlock] = scale;
      kernels::encode_e4m3(count, values.data(), inverse, a.codes() + at);
      return;
    }
    default:
      CHECK(false) << "no values of FP32 for " << to_string(a.extent);
  }
}

template <typename T>
void sum_exactly(std::span<const ConstArray> copies, T* to, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) {
    T sum = 0;
    for (const ConstArray& c : copies) sum += static_cast<const T*>(c.data)[i];
    to[i] = sum;
  }
}

void sum_bf16(std::span<const ConstArray> copies, Bf16* to, int64_t elements) {
  constexpr int64_t kBlock = 2048;  // 8 KiB of sums stay in the first-level cache
  std::array<float, kBlock> sums;
  for (int64_t begin = 0; begin < elements; begin += kBlock) {
    const int64_t n = std::min(kBlock, elements - begin);
    const Bf16* first = copies.front().bf16() + begin;
    kernels::convert(n, first, sums.data());
    for (const ConstArray& copy : copies.subspan(1)) {
      const Bf16* x = copy.bf16() + begin;
      for (int64_t i = 0; i < n; ++i) sums[static_cast<size_t>(i)] += kernels::to_float(x[i]);
    }
    kernels::convert(n, sums.data(), to + begin);
  }
}

}  // namespace

std::string to_string(const Extent& e) {
  constexpr std::array<const char*, 6> kNames = {"fp32", "bf16", "fp8", "fp64", "int32", "int64"};
  return fmt::format("{} [{}, {}]", kNames[static_cast<size_t>(e.type)], e.rows, e.columns);
}

ConstArray reshaped(ConstArray a, int64_t rows, int64_t columns) {
  CHECK(rows * columns == a.extent.size() && a.extent.tiles() == 0) << to_string(a.extent);
  a.extent = {a.extent.type, rows, columns};
  return a;
}

void copy(const ConstArray& from, const Array& to) {
  CHECK(from.extent == to.extent) << to_string(from.extent) << " to " << to_string(to.extent);
  const Extent& e = from.extent;
  if (e.size() == 0) return;
  std::memcpy(to.data, from.data, static_cast<size_t>(e.size() * element_bytes(e.type)));
  std::copy_n(from.scales, e.rows * e.tiles(), to.scales);
}

int64_t shard_units(const Extent& e) {
  return e.type == DType::kFp8 ? e.rows : e.size();
}

int64_t shard_unit_bytes(const Extent& e) {
  return e.type == DType::kFp8 ? e.columns + 4 * e.tiles() : element_bytes(e.type);
}

ConstArray part_of(const ConstArray& a, int64_t first, int64_t count) {
  const Extent& e = a.extent;
  const auto* bytes = static_cast<const std::byte*>(a.data);
  if (e.type == DType::kFp8) {
    return {{e.type, count, e.columns}, bytes + first * e.columns, a.scales + first * e.tiles()};
  }
  return {{e.type, count, 1}, bytes + first * element_bytes(e.type)};
}

Array part_of(const Array& a, int64_t first, int64_t count) {
  const ConstArray part = part_of(ConstArray(a), first, count);
  return {part.extent, const_cast<void*>(part.data), const_cast<float*>(part.scales)};
}

void convert(const ConstArray& from, const Array& to) {
  const Extent& e = from.extent;
  CHECK(e.rows == to.extent.rows && e.columns == to.extent.columns)
      << to_string(e) << " to " << to_string(to.extent);
  if (e == to.extent) return copy(from, to);
  const auto plain = [](DType t) { return t == DType::kFp32 || t == DType::kBf16; };
  if (plain(e.type) && plain(to.extent.type)) {
    e.type == DType::kBf16 ? kernels::convert(e.size(), from.bf16(), to.fp32())
                           : kernels::convert(e.size(), from.fp32(), to.bf16());
    return;
  }
  std::array<float, kernels::kScaleBlock> values;
  for (int64_t row = 0; row < e.rows; ++row) {
    for (int64_t first = 0; first < e.columns; first += kernels::kScaleBlock) {
      const auto n = std::min<int64_t>(kernels::kScaleBlock, e.columns - first);
      const auto tile = std::span(values).first(static_cast<size_t>(n));
      read(from, row, first, tile);
      write(to, row, first, tile);
    }
  }
}

void sum_in_order(std::span<const ConstArray> copies, const Array& to) {
  for (const ConstArray& c : copies) {
    CHECK(c.extent == to.extent) << to_string(c.extent) << " beside " << to_string(to.extent);
  }
  const int64_t elements = to.extent.size();
  switch (to.extent.type) {
    case DType::kFp32: {
      std::vector<const float*> values;
      for (const ConstArray& c : copies) values.push_back(c.fp32());
      kernels::reduce(values, elements, to.fp32());
      return;
    }
    case DType::kBf16:
      sum_bf16(copies, to.bf16(), elements);
      return;
    case DType::kFp64:
      return sum_exactly(copies, to.fp64(), elements);
    case DType::kInt32:
      return sum_exactly(copies, to.int32(), elements);
    case DType::kInt64:
      return sum_exactly(copies, to.int64(), elements);
    case DType::kFp8:
      CHECK(false) << "FP8 cannot be summed, only sent and gathered: " << to_string(to.extent);
  }
}

}  // namespace rehearse
