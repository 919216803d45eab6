#pragma once
// Where a check runs: a GPU, or its imitation on the CPU. Checks are written once, for both.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/fp8_cast/fp8_cast.h"
#include "kernels/fp8_gemm/fp8_gemm.h"
#include "kernels/layer_gpu/attention.h"
#include "kernels/layer_gpu/counts.h"
#include "kernels/layer_gpu/cross_entropy.h"
#include "kernels/layer_gpu/elements.h"
#include "kernels/layer_gpu/experts.h"
#include "kernels/layer_gpu/moves.h"
#include "kernels/layer_gpu/product.h"
#include "kernels/layer_gpu/rmsnorm.h"
#include "kernels/layer_gpu/rope.h"
#include "kernels/layer_gpu/swiglu.h"

namespace rehearse::kernels {

// The kernels of one target.
struct KernelSet {
  void (*fp8_gemm)(const Fp8Product&, const TileShape&, Stream) = nullptr;
  void (*fp8_weight_gradient)(const Fp8WeightGradient&, const TileShape&, Stream) = nullptr;
  void (*cast_rows)(const CastRows&, Stream) = nullptr;
  void (*cast_columns)(const CastColumns&, Stream) = nullptr;
  void (*cast_blocks)(const CastBlocks&, Stream) = nullptr;
  void (*rmsnorm)(const GpuRmsNorm&, Stream) = nullptr;
  void (*rmsnorm_backward)(const GpuRmsNormBackward&, Stream) = nullptr;
  void (*swiglu)(const GpuSwiglu&, Stream) = nullptr;
  void (*swiglu_backward)(const GpuSwigluBackward&, Stream) = nullptr;
  void (*rope)(const GpuRope&, Stream) = nullptr;
  void (*cross_entropy)(const GpuCrossEntropy&, Stream) = nullptr;
  void (*cross_entropy_backward)(const GpuCrossEntropyBackward&, Stream) = nullptr;
  void (*sum)(const GpuSum&, Stream) = nullptr;
  void (*embedding)(const GpuEmbedding&, Stream) = nullptr;
  void (*embedding_backward)(const GpuEmbeddingBackward&, Stream) = nullptr;
  void (*adamw)(const GpuAdamW&, Stream) = nullptr;
  void (*map_rows)(const GpuRowMap&, Stream) = nullptr;
  void (*permute)(const GpuPermute&, Stream) = nullptr;
  void (*unpermute)(const GpuUnpermute&, Stream) = nullptr;
  void (*gate)(const GpuGate&, Stream) = nullptr;
  void (*gate_backward)(const GpuGateBackward&, Stream) = nullptr;
  void (*product)(const GpuProduct&, Stream) = nullptr;
  void (*attention)(const GpuAttention&, Stream) = nullptr;
  void (*attention_backward)(const GpuAttentionBackward&, Stream) = nullptr;
  void (*move)(const GpuMove&, Stream) = nullptr;
  void (*of_rows)(const GpuOfRows&, Stream) = nullptr;
  void (*of_choices)(const GpuOfChoices&, Stream) = nullptr;
  void (*look_up)(const GpuLookUp&, Stream) = nullptr;
  void (*count)(const GpuCount&, Stream) = nullptr;
  void (*update_bias)(const GpuUpdateBias&, Stream) = nullptr;
  void (*weights_of_chosen)(const GpuWeightsOfChosen&, Stream) = nullptr;
  void (*count_bad)(const GpuCountBad&, Stream) = nullptr;
  void (*total)(const GpuTotal&, Stream) = nullptr;
};

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
// Throws std::runtime_error where there is no GPU of compute capability 9.0.
std::unique_ptr<Target> gpu_target();
std::unique_ptr<Target> gpu_target(const KernelSet& set);
// Why gpu_target() would throw, or nothing.
std::string why_no_gpu();
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
