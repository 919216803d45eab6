#include "runtime/tensor.h"

#include <algorithm>
#include <bit>
#include <new>

namespace rehearse {
namespace {

constexpr std::align_val_t kAlignment{64};

// Up to the next of four sizes per power of two, so that nearly equal requests share buffers.
size_t rounded(size_t elements) {
  const size_t least = std::max<size_t>(elements, 16);
  const size_t step = std::max<size_t>(std::bit_floor(least) / 4, 4);
  return (least + step - 1) / step * step;
}

}  // namespace

BufferPool::~BufferPool() {
  for (const auto& [capacity, buffers] : free_) {
    for (float* b : buffers) ::operator delete(b, kAlignment);
  }
}

BufferPool::Buffer BufferPool::take(size_t elements) {
  const size_t capacity = rounded(elements);
  {
    const std::lock_guard lock(mutex_);
    in_use_ += capacity;
    peak_ = std::max(peak_, in_use_);
    auto& ready = free_[capacity];
    if (!ready.empty()) {
      float* data = ready.back();
      ready.pop_back();
      return {data, capacity};
    }
  }
  return {static_cast<float*>(::operator new(capacity * sizeof(float), kAlignment)), capacity};
}

void BufferPool::give(Buffer buffer) {
  const std::lock_guard lock(mutex_);
  in_use_ -= buffer.capacity;
  free_[buffer.capacity].push_back(buffer.data);
}

Bytes BufferPool::in_use() const {
  const std::lock_guard lock(mutex_);
  return Bytes(static_cast<int64_t>(in_use_ * sizeof(float)));
}

Bytes BufferPool::peak() const {
  const std::lock_guard lock(mutex_);
  return Bytes(static_cast<int64_t>(peak_ * sizeof(float)));
}

void Tensor::fill(float value) {
  std::fill(data(), data() + size(), value);
}

}  // namespace rehearse
