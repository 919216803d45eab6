#pragma once
// Tensors on a rank's pool of buffers: FP32 unless told otherwise, or of any other type, FP8 with
// its scales.

#include <cstdint>
#include <utility>

#include "runtime/memory/array.h"
#include "runtime/memory/buffer_pool.h"

namespace rehearse {

// Move-only; empty until made. The contents of a new tensor are undefined.
class Tensor {
 public:
  Tensor() = default;
  Tensor(BufferPool& pool, int64_t rows, int64_t columns, DType type = DType::kFp32)
      : pool_(&pool), extent_{type, rows, columns}, buffer_(pool.take(extent_.buffer_bytes())) {}
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor&& other) noexcept {
    Tensor taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~Tensor() {
    if (pool_ != nullptr) pool_->give(buffer_);
  }

  // FP32 elements; the others' likewise. Throw InternalError for a tensor of another type.
  float* data() { return array().fp32(); }
  const float* data() const { return array().fp32(); }
  kernels::Bf16* bf16() { return array().bf16(); }
  const kernels::Bf16* bf16() const { return array().bf16(); }
  uint8_t* codes() { return array().codes(); }
  const uint8_t* codes() const { return array().codes(); }
  int32_t* int32() { return array().int32(); }
  const int32_t* int32() const { return array().int32(); }
  float* scales() { return array().scales; }  // of scaled types, else null
  const float* scales() const { return array().scales; }

  Array array() { return Array::in_buffer(extent_, buffer_.data); }
  ConstArray array() const { return ConstArray::in_buffer(extent_, buffer_.data); }
  operator Array() { return array(); }
  operator ConstArray() const { return array(); }

  const Extent& extent() const { return extent_; }
  DType type() const { return extent_.type; }
  int64_t rows() const { return extent_.rows; }
  int64_t columns() const { return extent_.columns; }
  int64_t size() const { return extent_.size(); }
  bool empty() const { return pool_ == nullptr; }
  void fill(float value);  // REQUIRES: FP32
  // The same elements as rows of another length. REQUIRES: as many, and no scales.
  void reshape(int64_t rows, int64_t columns) {
    CHECK(rows * columns == size() && !is_scaled(extent_.type)) << to_string(extent_);
    extent_ = {extent_.type, rows, columns};
  }
  void release() { *this = Tensor(); }

 private:
  void swap(Tensor& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(extent_, other.extent_);
    std::swap(buffer_, other.buffer_);
  }

  BufferPool* pool_ = nullptr;
  Extent extent_;
  BufferPool::Buffer buffer_;
};

// The same values in another type, on `pool`.
Tensor converted(const ConstArray& x, const Encoding& to, BufferPool& pool);

// Values as kernels read them: of an FP32 array its own, of another one a copy on the pool that
// lives as long as this. Must not outlive the array.
class Fp32Values {
 public:
  Fp32Values(const ConstArray& x, BufferPool& pool) {
    if (x.extent.type == DType::kFp32) {
      data_ = x.fp32();
    } else if (x.data != nullptr) {
      copy_ = converted(x, DType::kFp32, pool);
      data_ = copy_.data();
    }
  }
  operator const float*() const { return data_; }
  const float* data() const { return data_; }

 private:
  Tensor copy_;
  const float* data_ = nullptr;
};

}  // namespace rehearse
