#pragma once
// Copies of tensor boxes by the copy engine (TMA): into shared memory, counted by an mbarrier, and
// out of it, counted by groups of the issuing thread. One thread issues each.

#include <cstdint>

#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels::gpu::ptx {

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// The box at (x, y, z) to shared memory; its bytes complete on the barrier.
__device__ __forceinline__ void load_tensor(
    uint32_t to, const TensorMap& map, uint32_t barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map),
      "r"(x),
      "r"(y),
      "r"(z),
      "r"(barrier)
      : "memory");
}

// The same, to these addresses of every block of the cluster whose bit is set in `ranks`, each
// completing on its own barrier.
__device__ __forceinline__ void load_tensor_multicast(
    uint32_t to, const TensorMap& map, uint32_t barrier, int x, int y, int z, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(&map),
      "r"(x),
      "r"(y),
      "r"(z),
      "r"(barrier),
      "h"(ranks)
      : "memory");
}

// A box from shared memory to (x, y, z); part of this thread's open group.
__device__ __forceinline__ void store_tensor(
    const TensorMap& map, uint32_t from, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(
          &map),
      "r"(x),
      "r"(y),
      "r"(z),
      "r"(from)
      : "memory");
}

// The same, added to what is there.
__device__ __forceinline__ void add_tensor(
    const TensorMap& map, uint32_t from, int x, int y, int z) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group"
      " [%0, {%1, %2, %3}], [%4];" ::"l"(&map),
      "r"(x),
      "r"(y),
      "r"(z),
      "r"(from)
      : "memory");
}

// Closes this thread's open group of stores.
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until all but this thread's last kPending groups have read their shared memory.
template <int kPending>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// What this thread wrote to shared memory by ordinary stores is seen by tensor copies and matrix
// multiplications that come after this and a barrier.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace rehearse::kernels::gpu::ptx
