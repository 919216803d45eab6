#pragma once
// mbarriers: barriers in shared memory that count arrivals of threads and bytes of tensor copies.
// A phase completes when `count` arrivals and all expected bytes have come; its parity, 0 for the
// first, tells it from the next.

#include <cstdint>

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

// Waits until the phase of this parity is complete; at once where it is the one before the first.
__device__ __forceinline__ void wait_barrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

}  // namespace rehearse::kernels::gpu::ptx
