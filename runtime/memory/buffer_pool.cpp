#include "runtime/memory/buffer_pool.h"

#include <algorithm>
#include <bit>

namespace rehearse {
namespace {

constexpr size_t kSlab = size_t{16} << 20;  // bytes: eight huge pages
constexpr size_t kLine = 64;                // bytes of a cache line, which no two buffers share

// Up to the next of sixteen sizes per power of two: of codes whose scales come on top of a power of
// two a coarser step would leave a fifth unused.
size_t rounded(size_t bytes) {
  const size_t least = std::max(bytes, kLine);
  const size_t step = std::max(std::bit_floor(least) / 16, kLine);
  return (least + step - 1) / step * step;
}
// A free buffer that is larger by a quarter is taken too, so that nearly equal requests share.
size_t largest_for(size_t capacity) {
  return capacity + capacity / 4;
}

}  // namespace

BufferPool::~BufferPool() {
  for (std::byte* slab : slabs_) memory_.release(slab);
}

std::byte* BufferPool::carve(size_t bytes) {
  if (bytes > kSlab) {  // a slab of its own, behind the one being cut
    auto* own = memory_.allocate(bytes);
    slabs_.insert(slabs_.begin(), own);
    held_ += bytes;
    return own;
  }
  if (slab_left_ < bytes) {
    slabs_.push_back(memory_.allocate(kSlab));
    slab_left_ = kSlab;
    held_ += kSlab;
  }
  std::byte* data = slabs_.back() + (kSlab - slab_left_);
  slab_left_ -= bytes;
  return data;
}

BufferPool::Buffer BufferPool::take(size_t bytes) {
  const size_t capacity = rounded(bytes);
  const std::lock_guard lock(mutex_);
  Buffer taken{nullptr, capacity};
  for (auto size = free_.lower_bound(capacity);
       size != free_.end() && size->first <= largest_for(capacity) && taken.data == nullptr;
       ++size) {
    std::vector<Free>& free = size->second;
    for (size_t i = free.size(); i-- > 0 && taken.data == nullptr;) {
      if (order_ != nullptr && !order_->behind(free[i].last_use)) continue;
      taken = {free[i].data, size->first};
      free.erase(free.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  if (taken.data == nullptr) taken.data = carve(capacity);
  in_use_ += taken.capacity;
  peak_ = std::max(peak_, in_use_);
  if (order_ != nullptr) order_->taken(taken.data, taken.capacity);
  return taken;
}

void BufferPool::give(Buffer buffer) {
  const std::lock_guard lock(mutex_);
  in_use_ -= buffer.capacity;
  free_[buffer.capacity].push_back(
      {buffer.data, order_ == nullptr ? LaneEvent() : order_->last_use()});
}

Bytes BufferPool::peak() const {
  const std::lock_guard lock(mutex_);
  return Bytes(static_cast<int64_t>(peak_));
}

// Also while a buffer is being taken, by the same thread.
size_t BufferPool::held() const {
  return held_;
}

}  // namespace rehearse
