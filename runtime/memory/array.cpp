#include "runtime/memory/array.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "kernels/convert/convert.h"
#include "kernels/reduce/reduce.h"

namespace rehearse {
namespace {

using kernels::Bf16;

// Values of FP32 of whole rows.
void read_rows(const ConstArray& a, float* out) {
  const Extent& e = a.extent;
  switch (e.type) {
    case DType::kFp32:
      std::copy_n(a.fp32(), e.size(), out);
      return;
    case DType::kBf16:
      kernels::convert(e.size(), a.bf16(), out);
      return;
    case DType::kFp8:
      kernels::dequantize_rows(e.rows, e.columns, a.codes(), a.scales, a.scale_stride, out);
      return;
    case DType::kFp8Blocks:
      kernels::dequantize_blocks(0, e.rows, e.columns, a.codes(), a.scales, out);
      return;
    case DType::kE5m6:
      kernels::unpack_e5m6(e.rows, e.columns, a.codes(), a.scales, a.scale_stride, out);
      return;
    default:
      CHECK(false) << "no values of FP32 in " << to_string(e);
  }
}

// The other way.
void write_rows(const float* values, const Array& a, const kernels::ScaleRule& rule) {
  const Extent& e = a.extent;
  switch (e.type) {
    case DType::kFp32:
      std::copy_n(values, e.size(), a.fp32());
      return;
    case DType::kBf16:
      kernels::convert(e.size(), values, a.bf16());
      return;
    case DType::kFp8:
      kernels::quantize_rows(e.rows, e.columns, values, rule, a.codes(), a.scales, a.scale_stride);
      return;
    case DType::kE5m6:
      kernels::pack_e5m6(e.rows, e.columns, values, a.codes(), a.scales, a.scale_stride);
      return;
    default:
      CHECK(false) << "no values of FP32 for " << to_string(e);
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
  constexpr std::array<const char*, 8> kNames = {
      "fp32", "bf16", "fp8", "fp8 blocks", "e5m6", "fp64", "int32", "int64"};
  return fmt::format("{} [{}, {}]", kNames[static_cast<size_t>(e.type)], e.rows, e.columns);
}

ConstArray reshaped(ConstArray a, int64_t rows, int64_t columns) {
  CHECK(rows * columns == a.extent.size() && !is_scaled(a.extent.type)) << to_string(a.extent);
  a.extent = {a.extent.type, rows, columns};
  return a;
}

ConstArray rows_of(const ConstArray& a, int64_t first, int64_t count) {
  const Extent& e = a.extent;
  CHECK(e.type != DType::kFp8Blocks) << to_string(e);
  return {{e.type, count, e.columns},
          static_cast<const std::byte*>(a.data) + first * e.row_bytes(),
          is_scaled(e.type) ? a.scales + first : nullptr,
          a.scale_stride};
}

Array rows_of(const Array& a, int64_t first, int64_t count) {
  const ConstArray part = rows_of(ConstArray(a), first, count);
  return {part.extent,
          const_cast<void*>(part.data),
          const_cast<float*>(part.scales),
          part.scale_stride};
}

void copy(const ConstArray& from, const Array& to) {
  CHECK(from.extent == to.extent) << to_string(from.extent) << " to " << to_string(to.extent);
  const Extent& e = from.extent;
  if (e.size() == 0) return;
  std::memcpy(to.data, from.data, static_cast<size_t>(e.element_bytes_of_all()));
  if (e.type == DType::kFp8Blocks) {
    std::copy_n(from.scales, e.scale_count(), to.scales);
    return;
  }
  for (int64_t t = 0; t < e.tiles(); ++t) {
    std::copy_n(from.scales + t * from.scale_stride, e.rows, to.scales + t * to.scale_stride);
  }
}

int64_t shard_units(const Extent& e) {
  return is_scaled(e.type) ? e.rows : e.size();
}

int64_t shard_unit_bytes(const Extent& e) {
  return is_scaled(e.type) ? e.row_bytes() + 4 * e.tiles() : element_bytes(e.type);
}

ConstArray part_of(const ConstArray& a, int64_t first, int64_t count) {
  const Extent& e = a.extent;
  if (is_scaled(e.type)) return rows_of(a, first, count);
  return {{e.type, count, 1},
          static_cast<const std::byte*>(a.data) + first * element_bytes(e.type)};
}

Array part_of(const Array& a, int64_t first, int64_t count) {
  const ConstArray part = part_of(ConstArray(a), first, count);
  return {part.extent,
          const_cast<void*>(part.data),
          const_cast<float*>(part.scales),
          part.scale_stride};
}

void convert(const ConstArray& from, const Array& to, const kernels::ScaleRule& rule) {
  const Extent& e = from.extent;
  const DType type = to.extent.type;
  CHECK(e.rows == to.extent.rows && e.columns == to.extent.columns)
      << to_string(e) << " to " << to_string(to.extent);
  if (e == to.extent) return copy(from, to);
  if (type == DType::kFp32) return read_rows(from, to.fp32());
  if (e.type == DType::kFp32) return write_rows(from.fp32(), to, rule);
  if (type == DType::kFp8Blocks) {
    kernels::quantize_blocks(
        e.rows, e.columns, from.bf16(), rule.power_of_two, to.codes(), to.scales);
    return;
  }
  if (e.type == DType::kBf16 && type == DType::kFp8) {
    kernels::quantize_rows(
        e.rows, e.columns, from.bf16(), rule, to.codes(), to.scales, to.scale_stride);
    return;
  }
  // By way of FP32, as many rows at a time as share a scale.
  const int64_t band = rule.rows;
  std::vector<float> values(static_cast<size_t>(std::min(band, e.rows) * e.columns));
  for (int64_t first = 0; first < e.rows; first += band) {
    const int64_t n = std::min(band, e.rows - first);
    read_rows(rows_of(from, first, n), values.data());
    write_rows(values.data(), rows_of(to, first, n), rule);
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
    case DType::kFp8Blocks:
    case DType::kE5m6:
      CHECK(false) << "FP8 cannot be summed, only sent and gathered: " << to_string(to.extent);
  }
}

}  // namespace rehearse
