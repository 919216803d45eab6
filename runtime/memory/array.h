#pragma once
// Elements of one type in memory, as kernels and communicators are given them: rows of columns.
//
//   FP32, BF16  row-major.
//   FP8         E4M3 codes, row-major, and an FP32 scale per tile of 1 x 128 along the columns:
//               value = code x scale. Scales are [tiles, stride], tile by tile as products take
//               them, the stride in rows and a multiple of 4.
//   FP8 blocks  E4M3 codes, row-major, and an FP32 scale per block of 128 x 128: [row blocks,
//               tiles]. Of weights.
//   E5M6        codes of twelve bits, packed by row (kernels/quantize/), scales as FP8's.
//   FP64, INT32, INT64  row-major: sums, choices, counts; never rounded.
//
// An Extent says how much, an Array (ConstArray) where: neither owns anything.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/units.h"
#include "kernels/formats/formats.h"
#include "kernels/quantize/quantize.h"

namespace rehearse {

enum class DType : uint8_t { kFp32, kBf16, kFp8, kFp8Blocks, kE5m6, kFp64, kInt32, kInt64 };

// Whether values of it are codes that share scales.
constexpr bool is_scaled(DType type) {
  return type == DType::kFp8 || type == DType::kFp8Blocks || type == DType::kE5m6;
}

// How values are put into a type. Implicit from a type: scales are amax over the largest value, of
// tiles of one row.
struct Encoding {
  constexpr Encoding(DType t = DType::kFp32, kernels::ScaleRule r = {}) : type(t), scales(r) {}
  DType type;
  kernels::ScaleRule scales;  // of FP8; E5M6's are powers of two
  bool operator==(const Encoding&) const = default;
};

// Of one element. REQUIRES: not E5M6, whose elements share bytes.
constexpr int64_t element_bytes(DType type) {
  switch (type) {
    case DType::kFp32:
    case DType::kInt32:
      return 4;
    case DType::kBf16:
      return 2;
    case DType::kFp64:
    case DType::kInt64:
      return 8;
    case DType::kFp8:
    case DType::kFp8Blocks:
    case DType::kE5m6:
      break;
  }
  return 1;
}

struct Extent {
  DType type = DType::kFp32;
  int64_t rows = 0;
  int64_t columns = 0;
  bool operator==(const Extent&) const = default;

  int64_t size() const { return rows * columns; }
  // Scales of a row; of a row of blocks.
  int64_t tiles() const {
    return is_scaled(type) ? (columns + kernels::kScaleBlock - 1) / kernels::kScaleBlock : 0;
  }
  // Elements between the scales of neighbouring tiles, where arrays of this extent are made.
  int64_t scale_stride() const { return (rows + 3) / 4 * 4; }
  int64_t row_bytes() const {  // without scales
    return type == DType::kE5m6 ? kernels::e5m6_bytes(columns) : columns * element_bytes(type);
  }
  int64_t element_bytes_of_all() const { return rows * row_bytes(); }
  int64_t scale_count() const {
    const int64_t of_rows =
        type == DType::kFp8Blocks ? (rows + kernels::kScaleBlock - 1) / kernels::kScaleBlock : rows;
    return of_rows * tiles();
  }
  // Of all elements and their scales: what a message of them takes.
  Bytes bytes() const { return Bytes(element_bytes_of_all() + scale_count() * 4); }
  // Where the scales stand when one buffer holds both: aligned behind the elements.
  size_t scales_offset() const {
    return (static_cast<size_t>(element_bytes_of_all()) + 63) / 64 * 64;
  }
  // Bytes of such a buffer.
  size_t buffer_bytes() const {
    if (!is_scaled(type)) return static_cast<size_t>(element_bytes_of_all());
    const int64_t scales = type == DType::kFp8Blocks ? scale_count() : tiles() * scale_stride();
    return scales_offset() + static_cast<size_t>(scales) * 4;
  }
};

// "fp8 [4, 256]"
std::string to_string(const Extent& e);

struct ConstArray {
  Extent extent;
  const void* data = nullptr;
  const float* scales = nullptr;
  int64_t scale_stride = 0;  // of FP8 and E5M6

  ConstArray() = default;
  ConstArray(const Extent& e, const void* elements, const float* s = nullptr, int64_t stride = 0)
      : extent(e), data(elements), scales(s), scale_stride(stride) {}
  // FP32 values, one column.
  ConstArray(std::span<const float> values)
      : ConstArray({DType::kFp32, static_cast<int64_t>(values.size()), 1}, values.data()) {}
  // Choices, one column.
  ConstArray(std::span<const int32_t> values)
      : ConstArray({DType::kInt32, static_cast<int64_t>(values.size()), 1}, values.data()) {}
  ConstArray(std::span<float> values) : ConstArray(std::span<const float>(values)) {}
  template <typename A>
  ConstArray(const std::vector<float, A>& values) : ConstArray(std::span<const float>(values)) {}
  // In one buffer, laid out as Extent says.
  static ConstArray in_buffer(const Extent& e, const std::byte* buffer) {
    if (!is_scaled(e.type)) return {e, buffer};
    return {
        e, buffer, reinterpret_cast<const float*>(buffer + e.scales_offset()), e.scale_stride()};
  }

  const float* fp32() const { return as<float>(DType::kFp32); }
  const kernels::Bf16* bf16() const { return as<kernels::Bf16>(DType::kBf16); }
  const uint8_t* codes() const {  // of any scaled type
    CHECK(is_scaled(extent.type)) << to_string(extent);
    return static_cast<const uint8_t*>(data);
  }
  const double* fp64() const { return as<double>(DType::kFp64); }
  const int32_t* int32() const { return as<int32_t>(DType::kInt32); }
  const int64_t* int64() const { return as<int64_t>(DType::kInt64); }

 private:
  template <typename T>
  const T* as(DType type) const {
    CHECK(extent.type == type) << to_string(extent);
    return static_cast<const T*>(data);
  }
};

struct Array {
  Extent extent;
  void* data = nullptr;
  float* scales = nullptr;
  int64_t scale_stride = 0;

  Array() = default;
  Array(const Extent& e, void* elements, float* s = nullptr, int64_t stride = 0)
      : extent(e), data(elements), scales(s), scale_stride(stride) {}
  Array(std::span<float> values)
      : Array({DType::kFp32, static_cast<int64_t>(values.size()), 1}, values.data()) {}
  template <typename A>
  Array(std::vector<float, A>& values) : Array(std::span<float>(values)) {}
  static Array in_buffer(const Extent& e, std::byte* buffer) {
    if (!is_scaled(e.type)) return {e, buffer};
    return {e, buffer, reinterpret_cast<float*>(buffer + e.scales_offset()), e.scale_stride()};
  }
  operator ConstArray() const { return {extent, data, scales, scale_stride}; }

  // Throw InternalError for an array of another type.
  float* fp32() const { return const_cast<float*>(ConstArray(*this).fp32()); }
  kernels::Bf16* bf16() const { return const_cast<kernels::Bf16*>(ConstArray(*this).bf16()); }
  uint8_t* codes() const { return const_cast<uint8_t*>(ConstArray(*this).codes()); }
  double* fp64() const { return const_cast<double*>(ConstArray(*this).fp64()); }
  int32_t* int32() const { return const_cast<int32_t*>(ConstArray(*this).int32()); }
  int64_t* int64() const { return const_cast<int64_t*>(ConstArray(*this).int64()); }
};

// The same elements as rows of another length. Throws InternalError where they are not as many, and
// for scaled types, whose scales are of rows.
ConstArray reshaped(ConstArray a, int64_t rows, int64_t columns);

// Some rows of a matrix. Throw InternalError for FP8 blocks.
ConstArray rows_of(const ConstArray& a, int64_t first, int64_t count);
Array rows_of(const Array& a, int64_t first, int64_t count);

// Elements and scales; both arrays have the same extent.
void copy(const ConstArray& from, const Array& to);

// Part of an array that a collective gives to one member: of scaled types whole rows, so that no
// tile is cut; of the others any elements, as one column.
//   first, count: elements, or rows of scaled types; see shard_units.
ConstArray part_of(const ConstArray& a, int64_t first, int64_t count);
Array part_of(const Array& a, int64_t first, int64_t count);
// How many such units an array has, and the bytes of one.
int64_t shard_units(const Extent& e);
int64_t shard_unit_bytes(const Extent& e);

// Values in another type, of FP32, BF16 and the scaled ones; both arrays have the same rows and
// columns. To BF16: rounds to nearest even. To FP8: the largest magnitude that shares a scale
// becomes E4M3's largest value, 448 (e4m3_scale). To FP8 blocks from BF16 alone. An array of the
// type that is asked for is copied as it is, whatever its scales were chosen by.
void convert(const ConstArray& from, const Array& to, const kernels::ScaleRule& rule = {});

// to = copies[0] + copies[1] + ...: summed in FP32 in the order given and rounded once. `to` may be
// one of the copies. FP64 and integers are summed as they are. Throws InternalError for scaled
// types, whose sums would have no scale.
void sum_in_order(std::span<const ConstArray> copies, const Array& to);

}  // namespace rehearse
