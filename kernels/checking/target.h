#pragma once
// Where a check runs: a GPU, or its imitation on the CPU. Checks are written once, for both.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_set.h"

namespace rehearse::kernels {

class Target {
 public:
  explicit Target(const KernelSet& set) : kernels(set) {}
  virtual ~Target() = default;
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  // Device memory aligned to 256 bytes, full of NaN, between guards.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* p) = 0;
  // Throws std::runtime_error where a guard of this memory was overwritten.
  virtual void check_guards(void* p) = 0;
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  // Within the target's memory.
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void fill(void* to, uint8_t value, size_t bytes) = 0;
  virtual bool same(const void* a, const void* b, size_t bytes) = 0;
  // Waits for all kernels started; throws what went wrong in them.
  virtual void synchronize() = 0;
  // Has the next run take another order of events, where that can be chosen.
  virtual void vary(int run) = 0;
  virtual std::string name() const = 0;
  // Whether nothing more can run in this process after what went wrong.
  virtual bool broken() { return false; }
  // Whether kernels run at all: without, a check only prepares what it would compare.
  virtual bool runs() const { return true; }

  const KernelSet kernels;
};

std::unique_ptr<Target> imitated_target();
// With other kernels than the true ones, to see that checks find them out.
std::unique_ptr<Target> imitated_target(const KernelSet& set);
// Throws std::runtime_error where there is no such GPU (kernels/devices/devices.h).
std::unique_ptr<Target> gpu_target();
std::unique_ptr<Target> gpu_target(const KernelSet& set);
// Runs nothing and holds nothing: what checks cost the host.
std::unique_ptr<Target> no_target();

template <class T>
class DeviceArray {
 public:
  DeviceArray(Target& target, size_t count)
      : target_(&target), count_(count), p_(static_cast<T*>(target.allocate(count * sizeof(T)))) {}
  DeviceArray(Target& target, const std::vector<T>& values) : DeviceArray(target, values.size()) {
    target.upload(p_, values.data(), count_ * sizeof(T));
  }
  ~DeviceArray() { target_->release(p_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return p_; }
  std::vector<T> values(size_t first, size_t count) const {
    std::vector<T> out(count);
    target_->download(out.data(), p_ + first, count * sizeof(T));
    return out;
  }
  std::vector<T> values() const { return values(0, count_); }
  // Throws std::runtime_error where a kernel wrote before or behind the array.
  void check_guards() const { target_->check_guards(p_); }

 private:
  Target* target_;
  size_t count_;
  T* p_;
};

}  // namespace rehearse::kernels
