#pragma once
// A card, as thin as it can be: memory, streams whose work is done in the order that it was asked,
// and events between them. CUDA is one (cuda_gpu.cu); an imitation on the host (imitated_gpu.h)
// runs the same kernels, instruction by instruction, where there is no card.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/units.h"
#include "kernels/kernel_set.h"
#include "runtime/memory/memory.h"

namespace rehearse {

class Gpu {
 public:
  explicit Gpu(const kernels::KernelSet& set) : kernels(set) {}
  virtual ~Gpu() = default;

  virtual Memory& memory() = 0;
  struct MemorySize {
    size_t total = 0, free = 0;  // bytes
  };
  virtual MemorySize memory_size() = 0;

  // The stream that is asked from now on, for work called `name`; of several streams nothing is
  // promised but what waits say. Negative: none, and what is asked is done when the call returns.
  virtual void on(int32_t stream, const std::string& name) = 0;

  using Work = std::function<void(kernels::Stream)>;
  virtual void launch(Work work) = 0;
  virtual void copy(const void* from, void* to, size_t bytes) = 0;
  virtual void clear(void* at, size_t bytes) = 0;
  // From the host's memory, taken over before the call returns; and into it, where it stands when
  // finish has returned.
  virtual void upload(const void* from, void* to, size_t bytes) = 0;
  virtual void download(const void* from, void* to, size_t bytes) = 0;
  // A buffer changes hands: nobody reads any more what is in it.
  virtual void taken(void* at, size_t bytes) = 0;

  // Events are the caller's numbers, each recorded once between two calls of finish: the moment at
  // which the stream has come so far. Throws ScheduleError for a wait for one that nobody has
  // recorded, since a stream would wait for nothing.
  virtual void record(int64_t event) = 0;
  virtual void wait(int64_t event) = 0;
  // Whether the stream has come to it. From any thread.
  virtual bool reached(int64_t event) = 0;

  // Returns when all is done; `watch` is called now and then meanwhile, and may throw. Throws what
  // went wrong.
  virtual void finish(const std::function<void()>& watch) = 0;
  // Of the events between the last two calls of finish, since the first was recorded.
  virtual Duration time_of(int64_t event) = 0;

  const kernels::KernelSet kernels;
};

}  // namespace rehearse
