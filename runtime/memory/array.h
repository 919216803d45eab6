#pragma once
// Elements of one type in memory, as kernels and communicators are given them: rows of columns.
//
//   FP32, BF16  row-major.
//   FP8         E4M3 codes, row-major, and an FP32 scale per tile of 1 x 128 along the columns:
//               value = code x scale. Scales are [rows, tiles], a row's side by side, so that rows
//               can be picked and sent with theirs.
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

namespace rehearse {

enum class DType : uint8_t { kFp32, kBf16, kFp8, kFp64, kInt32, kInt64 };

// Of one element; of FP8 the code alone.
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
  // Scales of a row; none but for FP8.
  int64_t tiles() const {
    return type == DType::kFp8 ? (columns + kernels::kScaleBlock - 1) / kernels::kScaleBlock : 0;
  }
  // Of all elements and their scales: what a message of them takes.
  Bytes bytes() const { return Bytes(size() * element_bytes(type) + rows * tiles() * 4); }
  // Where the scales stand when one buffer holds both: aligned behind the elements.
  size_t scales_offset() const {
    const auto elements = static_cast<size_t>(size() * element_bytes(type));
    return (elements + 63) / 64 * 64;
  }
  // Bytes of such a buffer.
  size_t buffer_bytes() const {
    const size_t elements = static_cast<size_t>(size() * element_bytes(type));
    return tiles() == 0 ? elements : scales_offset() + static_cast<size_t>(rows * tiles()) * 4;
  }
};

// "fp8 [4, 256]"
std::string to_string(const Extent& e);

struct ConstArray {
  Extent extent;
  const void* data = nullptr;
  const float* scales = nullptr;  // of FP8

  ConstArray() = default;
  ConstArray(const Extent& e, const void* elements, const float* s = nullptr)
      : extent(e), data(elements), scales(s) {}
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
    return {e,
            buffer,
            e.tiles() == 0 ? nullptr : reinterpret_cast<const float*>(buffer + e.scales_offset())};
  }

  const float* fp32() const { return as<float>(DType::kFp32); }
  const kernels::Bf16* bf16() const { return as<kernels::Bf16>(DType::kBf16); }
  const uint8_t* codes() const { return as<uint8_t>(DType::kFp8); }
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

  Array() = default;
  Array(const Extent& e, void* elements, float* s = nullptr)
      : extent(e), data(elements), scales(s) {}
  Array(std::span<float> values)
      : Array({DType::kFp32, static_cast<int64_t>(values.size()), 1}, values.data()) {}
  template <typename A>
  Array(std::vector<float, A>& values) : Array(std::span<float>(values)) {}
  static Array in_buffer(const Extent& e, std::byte* buffer) {
    return {
        e, buffer, e.tiles() == 0 ? nullptr : reinterpret_cast<float*>(buffer + e.scales_offset())};
  }
  operator ConstArray() const { return {extent, data, scales}; }

  // Throw InternalError for an array of another type.
  float* fp32() const { return const_cast<float*>(ConstArray(*this).fp32()); }
  kernels::Bf16* bf16() const { return const_cast<kernels::Bf16*>(ConstArray(*this).bf16()); }
  uint8_t* codes() const { return const_cast<uint8_t*>(ConstArray(*this).codes()); }
  double* fp64() const { return const_cast<double*>(ConstArray(*this).fp64()); }
  int32_t* int32() const { return const_cast<int32_t*>(ConstArray(*this).int32()); }
  int64_t* int64() const { return const_cast<int64_t*>(ConstArray(*this).int64()); }
};

// The same elements as rows of another length. Throws InternalError where they are not as many, and
// for FP8, whose scales are of rows.
ConstArray reshaped(ConstArray a, int64_t rows, int64_t columns);

// Elements and scales; both arrays have the same extent.
void copy(const ConstArray& from, const Array& to);

// Part of an array that a collective gives to one member: of FP8 whole rows, so that no tile is
// cut; of the others any elements, as one column.
//   first, count: elements, or rows of FP8; see shard_units.
ConstArray part_of(const ConstArray& a, int64_t first, int64_t count);
Array part_of(const Array& a, int64_t first, int64_t count);
// How many such units an array has, and the bytes of one.
int64_t shard_units(const Extent& e);
int64_t shard_unit_bytes(const Extent& e);

// Values in another type, of FP32, BF16 and FP8. To BF16: rounds to nearest even. To FP8: a tile's
// largest magnitude becomes E4M3's largest value, 448 (e4m3_scale). Both arrays have the same rows
// and columns.
void convert(const ConstArray& from, const Array& to);

// to = copies[0] + copies[1] + ...: summed in FP32 in the order given and rounded once. `to` may be
// one of the copies. FP64 and integers are summed as they are. Throws InternalError for FP8, whose
// sums would have no scale.
void sum_in_order(std::span<const ConstArray> copies, const Array& to);

}  // namespace rehearse
