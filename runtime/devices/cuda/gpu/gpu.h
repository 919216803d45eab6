#pragma once
// A card, as thin as it can be: memory, what is done to it in order, and the kernels to start. CUDA
// is one; an imitation on the host (imitated_gpu.h) runs the same kernels, instruction by
// instruction, where there is no card.

#include "kernels/kernel_set.h"
#include "runtime/memory/memory.h"

namespace rehearse {

class Gpu {
 public:
  explicit Gpu(const kernels::KernelSet& set) : kernels(set) {}
  virtual ~Gpu() = default;

  virtual Memory& memory() = 0;
  // What follows is done in the order that it was asked, kernels among it.
  virtual kernels::Stream stream() = 0;
  virtual void copy(const void* from, void* to, size_t bytes) = 0;
  virtual void clear(void* at, size_t bytes) = 0;
  // From the host's memory, taken over before the call returns; and into it, where it stands when
  // finish has returned.
  virtual void upload(const void* from, void* to, size_t bytes) = 0;
  virtual void download(const void* from, void* to, size_t bytes) = 0;
  // Returns when all is done. Throws what went wrong.
  virtual void finish() = 0;

  const kernels::KernelSet kernels;
};

}  // namespace rehearse
