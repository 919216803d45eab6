#pragma once
// A rank's buffers, from slabs of a Memory. Steps repeat the same shapes, so after the first one
// the pool serves every request without the operating system; its high-water mark is the rank's
// memory.
//
// On a device that enqueues, a buffer that is given back may still be read by work under way: it
// waits for the event behind its last use, and who is not behind that gets another buffer.

#include <map>
#include <mutex>
#include <vector>

#include "base/units.h"
#include "runtime/memory/lane_order.h"
#include "runtime/memory/memory.h"

namespace rehearse {

// Thread-safe: the lanes of a rank share it. Must outlive its tensors.
class BufferPool {
 public:
  struct Buffer {
    std::byte* data = nullptr;  // aligned to 64 bytes
    size_t capacity = 0;        // bytes
  };
  // order: of a device that enqueues, by one thread; null where work is done when it was asked for.
  // Both must outlive the pool.
  explicit BufferPool(Memory& memory = host_memory(), LaneOrder* order = nullptr)
      : memory_(memory), order_(order) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  Buffer take(size_t bytes);
  void give(Buffer buffer);

  Memory& memory() const { return memory_; }
  Bytes peak() const;   // the most that was in use at once
  size_t held() const;  // bytes of the Memory, in use or not

 private:
  struct Free {
    std::byte* data = nullptr;
    LaneEvent last_use;
  };
  std::byte* carve(size_t bytes);

  Memory& memory_;
  LaneOrder* order_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<Free>> free_;  // by capacity
  std::vector<std::byte*> slabs_;             // what the buffers are cut from
  size_t held_ = 0;                           // their bytes
  size_t slab_left_ = 0;                      // bytes of the last slab not yet cut
  size_t in_use_ = 0;
  size_t peak_ = 0;
};

}  // namespace rehearse
