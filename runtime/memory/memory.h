#pragma once
// Where arrays lie: in the host's memory, on a card, or in a test's.

#include <cstddef>

namespace rehearse {

class Memory {
 public:
  virtual ~Memory() = default;
  // Whether the host may read and write it by pointer.
  virtual bool on_host() const = 0;
  // Aligned to 64 bytes. Throws std::bad_alloc.
  virtual std::byte* allocate(size_t bytes) = 0;
  virtual void release(std::byte* memory) noexcept = 0;
  // Between it and the host: done when the call returns. Not while work on them is under way.
  virtual void read(const void* from, void* to, size_t bytes) const = 0;
  virtual void write(const void* from, void* to, size_t bytes) = 0;
  virtual void clear(void* at, size_t bytes) = 0;  // to zeros
};

// Large allocations on big pages (base/big_memory.h).
Memory& host_memory();

}  // namespace rehearse
