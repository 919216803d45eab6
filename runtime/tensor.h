#pragma once
// FP32 tensors on a rank's pool of buffers. Steps repeat the same shapes, so after the first one
// the pool serves every request without the operating system; its high-water mark is the rank's
// memory.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/units.h"

namespace rehearse {

// Thread-safe: the lanes of a rank share it. Must outlive its tensors.
class BufferPool {
 public:
  struct Buffer {
    float* data = nullptr;
    size_t capacity = 0;  // elements
  };
  BufferPool() = default;
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  Buffer take(size_t elements);
  void give(Buffer buffer);

  Bytes peak() const;  // the most that was in use at once

 private:
  mutable std::mutex mutex_;
  float* carve(size_t elements);

  std::map<size_t, std::vector<float*>> free_;  // by capacity
  std::vector<float*> slabs_;                   // what the buffers are cut from
  size_t slab_left_ = 0;                        // elements of the last slab not yet cut
  size_t in_use_ = 0;
  size_t peak_ = 0;
};

// Move-only; empty until made. The contents of a new tensor are undefined.
class Tensor {
 public:
  Tensor() = default;
  Tensor(BufferPool& pool, int64_t rows, int64_t columns)
      : pool_(&pool),
        buffer_(pool.take(static_cast<size_t>(rows * columns))),
        rows_(rows),
        columns_(columns) {}
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor&& other) noexcept {
    Tensor taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~Tensor() {
    if (pool_ != nullptr) pool_->give(buffer_);
  }

  float* data() { return buffer_.data; }
  const float* data() const { return buffer_.data; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t size() const { return rows_ * columns_; }
  bool empty() const { return pool_ == nullptr; }
  void fill(float value);
  void release() { *this = Tensor(); }

 private:
  void swap(Tensor& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(buffer_, other.buffer_);
    std::swap(rows_, other.rows_);
    std::swap(columns_, other.columns_);
  }

  BufferPool* pool_ = nullptr;
  BufferPool::Buffer buffer_;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
};

}  // namespace rehearse
