#include "runtime/memory/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/big_memory.h"

namespace rehearse {
namespace {

class HostMemory : public Memory {
 public:
  bool on_host() const override { return true; }
  std::byte* allocate(size_t bytes) override {
    constexpr size_t kLine = 64;
    constexpr size_t kBig = size_t{1} << 20;  // below, a page of 2 MiB would be mostly empty
    if (bytes >= kBig) return static_cast<std::byte*>(allocate_big(bytes));
    void* const memory = std::aligned_alloc(kLine, (bytes / kLine + 1) * kLine);
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<std::byte*>(memory);
  }
  void release(std::byte* memory) noexcept override { free_big(memory); }
  void read(const void* from, void* to, size_t bytes) const override { copy(from, to, bytes); }
  void write(const void* from, void* to, size_t bytes) override { copy(from, to, bytes); }
  void clear(void* at, size_t bytes) override {
    if (bytes > 0) std::memset(at, 0, bytes);
  }

 private:
  static void copy(const void* from, void* to, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
};

}  // namespace

Memory& host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace rehearse
