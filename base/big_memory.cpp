#include "base/big_memory.h"

#include <cstdlib>

#include <sys/mman.h>

namespace rehearse {
namespace {

constexpr size_t kPage = size_t{2} << 20;

}  // namespace

void* allocate_big(size_t bytes) {
  const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
  void* memory = std::aligned_alloc(kPage, rounded == 0 ? kPage : rounded);
  if (memory == nullptr) throw std::bad_alloc();
  // A wish: where the kernel does not grant it, ordinary pages serve.
  (void)::madvise(memory, rounded, MADV_HUGEPAGE);
  return memory;
}

void free_big(void* memory) noexcept {
  std::free(memory);
}

}  // namespace rehearse
