#pragma once
// Large allocations on huge pages where the system grants them (transparent huge pages, Linux):
// with 4 KiB pages a training step's working set outgrows the translation cache of a core, which
// costs matrix products of small shapes a tenth of their speed and more.

#include <cstddef>
#include <new>

namespace rehearse {

// Aligned to 2 MiB and rounded up to it. Throws std::bad_alloc.
void* allocate_big(size_t bytes);
void free_big(void* memory) noexcept;

// For standard containers of large arrays.
template <typename T>
struct BigAllocator {
  using value_type = T;
  BigAllocator() = default;
  template <typename U>
  BigAllocator(const BigAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(allocate_big(n * sizeof(T))); }
  void deallocate(T* p, size_t) noexcept { free_big(p); }
  bool operator==(const BigAllocator&) const { return true; }
};

}  // namespace rehearse
