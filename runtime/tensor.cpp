#include "runtime/tensor.h"

#include <algorithm>
#include <bit>

#include "base/big_memory.h"

namespace rehearse {
namespace {

constexpr size_t kSlab = size_t{16} << 20;  // bytes: eight huge pages
constexpr size_t kLine = 64;                // bytes of a cache line, which no two buffers share

// Up to the next of four sizes per power of two, so that nearly equal requests share buffers.
size_t rounded(size_t bytes) {
  const size_t least = std::max(bytes, kLine);
  const size_t step = std::max(std::bit_floor(least) / 4, kLine);
  return (least + step - 1) / step * step;
}

}  // namespace

BufferPool::~BufferPool() {
  for (std::byte* slab : slabs_) free_big(slab);
}

std::byte* BufferPool::carve(size_t bytes) {
  if (bytes > kSlab) {  // a slab of its own, behind the one being cut
    auto* own = static_cast<std::byte*>(allocate_big(bytes));
    slabs_.insert(slabs_.begin(), own);
    return own;
  }
  if (slab_left_ < bytes) {
    slabs_.push_back(static_cast<std::byte*>(allocate_big(kSlab)));
    slab_left_ = kSlab;
  }
  std::byte* data = slabs_.back() + (kSlab - slab_left_);
  slab_left_ -= bytes;
  return data;
}

BufferPool::Buffer BufferPool::take(size_t bytes) {
  const size_t capacity = rounded(bytes);
  const std::lock_guard lock(mutex_);
  in_use_ += capacity;
  peak_ = std::max(peak_, in_use_);
  auto& ready = free_[capacity];
  if (ready.empty()) return {carve(capacity), capacity};
  std::byte* data = ready.back();
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
  return Bytes(static_cast<int64_t>(peak_));
}

void Tensor::fill(float value) {
  std::fill(data(), data() + size(), value);
}

Tensor converted(const ConstArray& x, DType type, BufferPool& pool) {
  Tensor out(pool, x.extent.rows, x.extent.columns, type);
  convert(x, out);
  return out;
}

}  // namespace rehearse
