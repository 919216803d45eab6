#pragma once
// The card of tests: memory of the imitation, which knows what was written and what a launch may
// touch, and kernels that run when they are started.

#include "kernels/ptx/imitation/global_memory.h"
#include "runtime/devices/cuda/gpu/gpu.h"

namespace rehearse {

class ImitatedGpu : public Gpu {
 public:
  ImitatedGpu() : Gpu(kernels::imitated_kernels()) {}

  Memory& memory() override { return memory_; }
  kernels::Stream stream() override { return {}; }
  void copy(const void* from, void* to, size_t bytes) override {
    std::vector<std::byte> through(bytes);
    memory_.read(from, through.data(), bytes);
    memory_.write(through.data(), to, bytes);
  }
  void clear(void* at, size_t bytes) override { memory_.clear(at, bytes); }
  void upload(const void* from, void* to, size_t bytes) override { memory_.write(from, to, bytes); }
  void download(const void* from, void* to, size_t bytes) override {
    memory_.read(from, to, bytes);
  }
  void finish() override {}

 private:
  class ImitatedMemory : public Memory {
   public:
    bool on_host() const override { return false; }
    std::byte* allocate(size_t bytes) override {
      return static_cast<std::byte*>(all().allocate(std::max<size_t>(bytes, 1)));
    }
    void release(std::byte* memory) noexcept override { all().release(memory); }
    void read(const void* from, void* to, size_t bytes) const override {
      if (bytes > 0) all().download(to, from, bytes);
    }
    void write(const void* from, void* to, size_t bytes) override {
      if (bytes > 0) all().upload(to, from, bytes);
    }
    void clear(void* at, size_t bytes) override {
      write(std::vector<std::byte>(bytes).data(), at, bytes);
    }

   private:
    static kernels::imitation::GlobalMemory& all() {
      return kernels::imitation::GlobalMemory::instance();
    }
  };
  ImitatedMemory memory_;
};

}  // namespace rehearse
