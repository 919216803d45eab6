#include "runtime/tensor.h"

#include <algorithm>
#include <bit>

#include "base/big_memory.h"

namespace rehearse {
namespace {

constexpr size_t kSlab = size_t{4} << 20;  // elements: 16 MiB on huge pages

// Up to the next of four sizes per power of two, so that nearly equal requests share buffers.
size_t rounded(size_t elements) {
  const size_t least = std::max<size_t>(elements, 16);
  const size_t step = std::max<size_t>(std::bit_floor(least) / 4, 16);  // 64-byte lines
  return (least + step - 1) / step * step;
}

}  // namespace

BufferPool::~BufferPool() {
  for (float* slab : slabs_) free_big(slab);
}

float* BufferPool::carve(size_t elements) {
  if (elements > kSlab) {  // a slab of its own, behind the one being cut
    float* own = static_cast<float*>(allocate_big(elements * sizeof(float)));
    slabs_.insert(slabs_.begin(), own);
    return own;
  }
  if (slab_left_ < elements) {
    slabs_.push_back(static_cast<float*>(allocate_big(kSlab * sizeof(float))));
    slab_left_ = kSlab;
  }
  float* data = slabs_.back() + (kSlab - slab_left_);
  slab_left_ -= elements;
  return data;
}

BufferPool::Buffer BufferPool::take(size_t elements) {
  const size_t capacity = rounded(elements);
  const std::lock_guard lock(mutex_);
  in_use_ += capacity;
  peak_ = std::max(peak_, in_use_);
  auto& ready = free_[capacity];
  if (ready.empty()) return {carve(capacity), capacity};
  float* data = ready.back();
  ready.pop_back();
  return {data, capacity};
}

void BufferPool::give(Buffer buffer) {
  const std::lock_guard lock(mutex_);
  in_use_ -= buffer.capacity;
  free_[buffer.capacity].push_back(buffer.data);
}

Bytes BufferPool::peak() const {
  const std::lock_guard lock(mutex_);
  return Bytes(static_cast<int64_t>(peak_ * sizeof(float)));
}

void Tensor::fill(float value) {
  std::fill(data(), data() + size(), value);
}

}  // namespace rehearse
