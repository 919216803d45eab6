#pragma once
// A flat array of FP32 or BF16 values on big pages: weights, gradients, moments.

#include <span>
#include <vector>

#include "base/big_memory.h"
#include "runtime/array.h"

namespace rehearse {

class FlatValues {
 public:
  // type: FP32 or BF16. Values are 0.
  explicit FlatValues(DType type = DType::kFp32, int64_t size = 0) : type_(type) { resize(size); }
  void resize(int64_t size);  // new values are 0

  DType type() const { return type_; }
  bool empty() const { return size() == 0; }
  int64_t size() const {
    return static_cast<int64_t>(type_ == DType::kBf16 ? narrow_.size() : wide_.size());
  }
  // From the value at `begin` on. Throw InternalError for an array of another type.
  float* fp32(int64_t begin = 0) { return const_cast<float*>(std::as_const(*this).fp32(begin)); }
  const float* fp32(int64_t begin = 0) const {
    CHECK(type_ == DType::kFp32) << "values are BF16";
    return wide_.data() + begin;
  }
  kernels::Bf16* bf16(int64_t begin = 0) {
    return const_cast<kernels::Bf16*>(std::as_const(*this).bf16(begin));
  }
  const kernels::Bf16* bf16(int64_t begin = 0) const {
    CHECK(type_ == DType::kBf16) << "values are FP32";
    return narrow_.data() + begin;
  }
  // `rows` x `columns` of them from `begin` on.
  Array array(int64_t begin, int64_t rows, int64_t columns) {
    return {{type_, rows, columns}, at(begin)};
  }
  ConstArray array(int64_t begin, int64_t rows, int64_t columns) const {
    return const_cast<FlatValues*>(this)->array(begin, rows, columns);
  }
  // All of them, one column.
  Array array() { return array(0, size(), 1); }

  // In FP32; set rounds.
  void get(int64_t begin, std::span<float> to) const;
  std::vector<float> get(int64_t begin, int64_t count) const;
  void set(int64_t begin, std::span<const float> values);

 private:
  void* at(int64_t begin) {
    return type_ == DType::kBf16 ? static_cast<void*>(bf16(begin)) : fp32(begin);
  }

  DType type_;
  std::vector<float, BigAllocator<float>> wide_;  // one of the two
  std::vector<kernels::Bf16, BigAllocator<kernels::Bf16>> narrow_;
};

}  // namespace rehearse
