#pragma once
// A tensor in device memory as the copy engine (TMA) sees it: up to three dimensions, copied box by
// box, with elements outside the tensor read as zero and not written.

#include <array>
#include <cstdint>

namespace rehearse::kernels {

enum class Element : uint32_t { kByte, kBf16, kFloat };

inline constexpr uint32_t size_of(Element e) {
  return e == Element::kByte ? 1 : e == Element::kBf16 ? 2 : 4;
}

struct TensorShape {
  const void* base = nullptr;  // aligned to 16 bytes
  Element element = Element::kByte;
  std::array<uint64_t, 3> size{1, 1, 1};   // elements, the contiguous dimension first
  std::array<uint64_t, 2> stride{16, 16};  // bytes from one index to the next, dimensions 1 and 2;
                                           // multiples of 16
  std::array<uint32_t, 3> box{1, 1, 1};    // elements, at most 256 each
  // Bytes of a box's row when rows are swizzled in shared memory (32, 64 or 128), else 0: 16-byte
  // chunk c of the row at address a lies at chunk c ^ (a / 128 mod row / 16).
  uint32_t swizzle = 0;
};

// What kernels are given; opaque, 128 bytes, aligned as the hardware wants it.
struct alignas(64) TensorMap {
  std::array<uint64_t, 16> words{};
};

// Where a kernel runs: a CUDA stream, or nothing for the imitation.
struct Stream {
  void* handle = nullptr;
};

// blocks: of the grid, a multiple of cluster. shared_bytes: dynamic, all a block has.
struct LaunchShape {
  int blocks = 1;
  int threads = 32;
  int cluster = 1;
  int shared_bytes = 0;
  bool waits_itself = false;  // the kernel calls wait_for_kernel_before, and may start before
};

inline constexpr int kMaxSharedBytes = 227 * 1024;  // of a block, sm_90

}  // namespace rehearse::kernels
