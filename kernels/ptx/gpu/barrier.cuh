#pragma once
// mbarriers: barriers in shared memory that count arrivals of threads and bytes of tensor copies.
// A phase completes when `count` arrivals and all expected bytes have come; its parity, 0 for the
// first, tells it from the next.

#include <cstdint>

#include "kernels/ptx/gpu/hang.cuh"
#include "kernels/ptx/label.h"

namespace rehearse::kernels::gpu::ptx {

// 8 bytes at an address that is a multiple of 8; made visible by fence_barrier_init and a barrier.
// `name`: for the imitation's messages.
__device__ __forceinline__ void barrier_init(uint32_t barrier, int count, const char* /*name*/) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and has the phase wait for `bytes` of tensor copies too.
__device__ __forceinline__ void arrive_expecting(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives at the barrier of the same address in block `rank` of the cluster. Released to this
// block's threads only (`.release.cluster` would cost a fence of the whole GPU): enough to hand
// back memory that was read.
__device__ __forceinline__ void arrive_at_rank(uint32_t barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Whether the phase of this parity is complete; may take a while to say no.
__device__ __forceinline__ bool try_barrier(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// Waits until the phase of this parity is complete; at once where it is the one before the first.
// `name`: of the barrier, said when it is never complete (hang.cuh).
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity, Label name) {
#ifdef REHEARSE_TRAP_HANGS
  if (try_barrier(barrier, parity)) return;
  const uint64_t begin = nanoseconds();
  while (!try_barrier(barrier, parity)) {
    if (nanoseconds() - begin > kHangNanoseconds) say_hang(barrier, parity, name.text);
  }
#else
  while (!try_barrier(barrier, parity)) {
  }
#endif
}

}  // namespace rehearse::kernels::gpu::ptx
