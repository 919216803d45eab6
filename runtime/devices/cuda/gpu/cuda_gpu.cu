#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include "base/errors.h"
#include "kernels/devices/devices.h"
#include "kernels/ptx/gpu/launch.cuh"
#include "runtime/devices/cuda/gpu/cuda_gpu.h"

namespace rehearse {
namespace {

using kernels::gpu::check_cuda;

class CudaMemory : public Memory {
 public:
  bool on_host() const override { return false; }
  std::byte* allocate(size_t bytes) override {
    void* p = nullptr;
    const cudaError_t error = cudaMalloc(&p, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // or the next launch reports it
      throw std::bad_alloc();
    }
    check_cuda(error, "cudaMalloc", __FILE__, __LINE__);
    return static_cast<std::byte*>(p);
  }
  // What failed before was said; a card that hangs would be waited for.
  void release(std::byte* memory) noexcept override {
    if (!lost) cudaFree(memory);
  }
  void read(const void* from, void* to, size_t bytes) const override {
    if (bytes > 0) REHEARSE_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
  }
  void write(const void* from, void* to, size_t bytes) override {
    if (bytes == 0) return;
    // From memory that is not pinned it may return before all has come.
    REHEARSE_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    REHEARSE_CUDA(cudaStreamSynchronize(cudaStreamLegacy));
  }
  void clear(void* at, size_t bytes) override {
    if (bytes == 0) return;
    REHEARSE_CUDA(cudaMemset(at, 0, bytes));
    REHEARSE_CUDA(cudaStreamSynchronize(cudaStreamLegacy));  // no lane waits for that stream
  }

  bool lost = false;  // the card does not answer any more
};

// Pinned memory for copies between host and card, given out piece by piece until all is done.
class Staging {
 public:
  ~Staging() {
    for (const Chunk& c : chunks_) cudaFreeHost(c.begin);
  }
  std::byte* take(size_t bytes) {
    constexpr size_t kLine = 64;
    const size_t size = (bytes + kLine - 1) / kLine * kLine;
    for (; at_ < chunks_.size(); ++at_, used_ = 0) {
      if (used_ + size <= chunks_[at_].size) {
        used_ += size;
        return chunks_[at_].begin + (used_ - size);
      }
    }
    constexpr size_t kChunk = size_t{4} << 20;
    Chunk c{nullptr, std::max(size, kChunk)};
    void* p = nullptr;
    REHEARSE_CUDA(cudaHostAlloc(&p, c.size, cudaHostAllocDefault));
    c.begin = static_cast<std::byte*>(p);
    chunks_.push_back(c);
    used_ = size;
    return c.begin;
  }
  void all_done() { at_ = used_ = 0; }
  void abandon() { chunks_.clear(); }

 private:
  struct Chunk {
    std::byte* begin;
    size_t size;
  };
  std::vector<Chunk> chunks_;
  size_t at_ = 0, used_ = 0;
};

class CudaGpu : public Gpu {
 public:
  explicit CudaGpu(int32_t streams)
      : Gpu(kernels::gpu_kernels()), streams_(static_cast<size_t>(streams)) {
    REHEARSE_CUDA(cudaStreamCreateWithFlags(&outside_, cudaStreamNonBlocking));
  }
  ~CudaGpu() override {
    if (memory_.lost) {
      staging_.abandon();
      return;
    }
    for (cudaStream_t s : streams_) {
      if (s != nullptr) cudaStreamDestroy(s);
    }
    cudaStreamDestroy(outside_);
    for (const auto& [event, e] : events_) spare_.push_back(e);
    for (cudaEvent_t e : spare_) cudaEventDestroy(e);
  }

  Memory& memory() override { return memory_; }
  MemorySize memory_size() override {
    MemorySize size;
    REHEARSE_CUDA(cudaMemGetInfo(&size.free, &size.total));
    return size;
  }

  void on(int32_t lane, const std::string& name) override {
    if (lane_ >= 0) nvtxRangePop();
    lane_ = lane;
    name_ = name;
    if (lane < 0) return;
    nvtxRangePushA(name.c_str());
    cudaStream_t& s = streams_[static_cast<size_t>(lane)];
    if (s == nullptr) check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "a stream");
  }

  void launch(Work work) override {
    try {
      work({stream()});
    } catch (const std::runtime_error& e) {
      throw named(e.what());
    }
    outside_is_done();
  }
  void copy(const void* from, void* to, size_t bytes) override {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "a copy");
    outside_is_done();
  }
  void clear(void* at, size_t bytes) override {
    if (bytes == 0) return;
    check(cudaMemsetAsync(at, 0, bytes, stream()), "zeros");
    outside_is_done();
  }
  void upload(const void* from, void* to, size_t bytes) override {
    if (bytes == 0) return;
    std::byte* const staged = staging_.take(bytes);
    std::memcpy(staged, from, bytes);
    check(cudaMemcpyAsync(to, staged, bytes, cudaMemcpyHostToDevice, stream()), "an upload");
    outside_is_done();
  }
  void download(const void* from, void* to, size_t bytes) override {
    if (bytes == 0) return;
    std::byte* const staged = staging_.take(bytes);
    check(cudaMemcpyAsync(staged, from, bytes, cudaMemcpyDeviceToHost, stream()), "a download");
    downloads_.push_back({staged, to, bytes});
    outside_is_done();
  }
  void taken(void*, size_t) override {}

  void record(int64_t event) override {
    const cudaEvent_t e = spare_event();
    check(cudaEventRecord(e, stream()), "an event");
    const std::lock_guard lock(mutex_);
    if (first_ == nullptr) first_ = e;
    events_[event] = e;
    recorded_.push_back({event, lane_, name_});
  }
  void wait(int64_t event) override {
    const auto found = events_.find(event);
    if (found == events_.end()) {
      throw ScheduleError(name_ + " waits for an event that is not recorded yet");
    }
    check(cudaStreamWaitEvent(stream(), found->second), "a wait");
  }
  bool reached(int64_t event) override {
    const std::lock_guard lock(mutex_);
    const auto found = events_.find(event);
    return found != events_.end() && cudaEventQuery(found->second) == cudaSuccess;
  }

  void finish(const std::function<void()>& watch) override {
    for (cudaStream_t s : streams_) {
      if (s != nullptr) wait_for(s, watch);
    }
    for (const Download& d : downloads_) std::memcpy(d.to, d.staged, d.bytes);
    downloads_.clear();
    staging_.all_done();
    times_.clear();
    const std::lock_guard lock(mutex_);
    for (const auto& [event, e] : events_) {
      float ms = 0;
      check_cuda(cudaEventElapsedTime(&ms, first_, e), "an event's time", __FILE__, __LINE__);
      times_[event] = std::max(0.0f, ms);  // streams begin within microseconds of each other
      spare_.push_back(e);
    }
    events_.clear();
    recorded_.clear();
    first_ = nullptr;
  }
  Duration time_of(int64_t event) override { return Duration::seconds(1e-3 * times_.at(event)); }

 private:
  struct Download {
    const std::byte* staged;
    void* to;
    size_t bytes;
  };
  struct Recorded {
    int64_t event;
    int32_t lane;
    std::string name;
  };

  cudaStream_t stream() const {
    return lane_ < 0 ? outside_ : streams_[static_cast<size_t>(lane_)];
  }
  std::runtime_error named(const std::string& what) {
    memory_.lost = true;
    return std::runtime_error(name_.empty() ? what : name_ + ": " + what);
  }
  void check(cudaError_t error, const char* what) {
    if (error != cudaSuccess) {
      throw named(std::string(__FILE__) + ": " + what + ": CUDA says " + cudaGetErrorString(error));
    }
  }
  // Outside of ops what was asked is done when the call returns.
  void outside_is_done() {
    if (lane_ >= 0) return;
    check(cudaStreamSynchronize(outside_), "work between steps");
    for (const Download& d : downloads_) std::memcpy(d.to, d.staged, d.bytes);
    downloads_.clear();
    if (first_ == nullptr) staging_.all_done();  // else copies of a step may be under way
  }
  cudaEvent_t spare_event() {
    cudaEvent_t e = nullptr;
    if (!spare_.empty()) {
      e = spare_.back();
      spare_.pop_back();
    } else {
      check(cudaEventCreate(&e), "an event");
    }
    return e;
  }

  void wait_for(cudaStream_t s, const std::function<void()>& watch) {
    constexpr auto kSpin = std::chrono::microseconds(200);
    const auto begin = std::chrono::steady_clock::now();
    for (;;) {
      const cudaError_t error = cudaStreamQuery(s);
      if (error == cudaSuccess) return;
      if (error != cudaErrorNotReady) {
        memory_.lost = true;
        throw std::runtime_error("CUDA says " + std::string(cudaGetErrorString(error)) +
                                 under_way());
      }
      try {
        watch();
      } catch (...) {
        memory_.lost = true;
        throw;
      }
      if (std::chrono::steady_clock::now() - begin > kSpin) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }
  // An error of a kernel comes to light later, and is then the answer to every question.
  std::string under_way() {
    const std::lock_guard lock(mutex_);
    std::string text = "; asked of the card last, by lane:";
    std::unordered_map<int32_t, const Recorded*> last;
    for (const Recorded& r : recorded_) last[r.lane] = &r;
    for (const auto& [lane, r] : last) text += "\n  " + r->name;
    return text + "\nWith CUDA_LAUNCH_BLOCKING=1 the op that fails is named.";
  }

  CudaMemory memory_;
  Staging staging_;
  std::vector<cudaStream_t> streams_;  // made when used
  cudaStream_t outside_ = nullptr;
  int32_t lane_ = -1;
  std::string name_;
  std::vector<Download> downloads_;
  std::vector<cudaEvent_t> spare_;
  std::mutex mutex_;  // of what another thread asks
  cudaEvent_t first_ = nullptr;
  std::unordered_map<int64_t, cudaEvent_t> events_;
  std::vector<Recorded> recorded_;
  std::unordered_map<int64_t, double> times_;  // ms
};

}  // namespace

std::unique_ptr<Gpu> make_cuda_gpu(int32_t streams) {
  if (const std::string why = why_no_gpu(); !why.empty()) {
    throw InputError("no card to train on: " + why);
  }
  return std::make_unique<CudaGpu>(streams);
}

}  // namespace rehearse
