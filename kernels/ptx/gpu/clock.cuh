#pragma once
// Clocks of a GPU, for benchmarks.

#include <cstdint>

namespace rehearse::kernels::gpu::ptx {

// Cycles of this SM.
__device__ __forceinline__ uint64_t cycles() {
  uint64_t t;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(t));
  return t;
}

// Nanoseconds, the same on all SMs; ticks coarsely.
__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

// Which SM this block runs on.
__device__ __forceinline__ int sm_index() {
  uint32_t sm;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
  return static_cast<int>(sm);
}

}  // namespace rehearse::kernels::gpu::ptx
