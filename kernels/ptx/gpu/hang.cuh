#pragma once
// Built with REHEARSE_TRAP_HANGS, a wait for an mbarrier that takes longer than kHangNanoseconds
// says who waits for what and ends the kernel; without, it waits for ever. What is said lies in the
// host's memory: nothing of the device's can be read after a trap.

#include <cstdint>
#include <string>

#include "kernels/ptx/gpu/clock.cuh"

namespace rehearse::kernels::gpu {

inline constexpr uint64_t kHangNanoseconds = 2'000'000'000;

struct Hang {
  uint64_t barrier;  // its Label
  uint32_t block, thread, address, parity;
  uint32_t claimed;  // by the first thread to find out
};

// From now on. Throws std::runtime_error where CUDA fails.
void watch_for_hangs();
// What was said since then, in one line, or nothing; also when CUDA has failed for good.
std::string describe_hang();

#ifdef REHEARSE_TRAP_HANGS
// Without linking of device code every source of kernels has its own pointer to the record, and
// makes it known.
static __device__ Hang* hang_record;
struct HangPointer {
  explicit HangPointer(const void* symbol);
};
static const HangPointer kHangPointer(&hang_record);

namespace ptx {
__device__ __forceinline__ void say_hang(uint32_t barrier, uint32_t parity, uint64_t name) {
  Hang* h = hang_record;
  if (h && atomicCAS_system(&h->claimed, 0u, 1u) == 0) {
    h->barrier = name;
    h->block = blockIdx.x, h->thread = threadIdx.x;
    h->address = barrier, h->parity = parity;
    __threadfence_system();
  }
  __nanosleep(1000);
  __trap();
}
}  // namespace ptx
#endif

}  // namespace rehearse::kernels::gpu
