#include <algorithm>
#include <vector>

#include "kernels/checking/stopwatch.h"
#include "kernels/ptx/gpu/clock.cuh"
#include "kernels/ptx/gpu/launch.cuh"

namespace rehearse::kernels::gpu {
namespace {

constexpr int kRuns = 30;
constexpr size_t kFlush = 256 << 20;      // several times the L2
constexpr double kSustainedMicros = 2e5;  // of back-to-back runs
constexpr int kMaxSms = 256;

struct Sample {
  uint64_t cycles = 0, nanoseconds = 0;
};

// One thread per block; enough blocks come to every SM.
__global__ void read_clocks(Sample* samples) {
  samples[ptx::sm_index()] = {ptx::cycles(), ptx::nanoseconds()};
}

class Event {
 public:
  Event() { REHEARSE_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record() { REHEARSE_CUDA(cudaEventRecord(event_)); }
  double micros_since(const Event& before) const {
    REHEARSE_CUDA(cudaEventSynchronize(event_));
    float ms = 0;
    REHEARSE_CUDA(cudaEventElapsedTime(&ms, before.event_, event_));
    return static_cast<double>(ms) * 1e3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    REHEARSE_CUDA(cudaMalloc(&p_, bytes));
    REHEARSE_CUDA(cudaMemset(p_, 0, bytes));
  }
  ~Scratch() { cudaFree(p_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return p_; }

 private:
  void* p_ = nullptr;
};

double quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[static_cast<size_t>(q * static_cast<double>(v.size() - 1) + 0.5)];
}

std::vector<Sample> sample_clocks(const Scratch& room) {
  std::vector<Sample> samples(kMaxSms);
  REHEARSE_CUDA(
      cudaMemcpy(samples.data(), room.get(), kMaxSms * sizeof(Sample), cudaMemcpyDeviceToHost));
  return samples;
}

}  // namespace

Timing time_gpu(const std::function<void()>& run, const std::function<void()>& reset) {
  const Scratch flush(kFlush);
  Timing t;
  for (int i = 0; i < 3; ++i) run();
  REHEARSE_CUDA(cudaDeviceSynchronize());

  std::vector<double> times;
  for (int i = 0; i < kRuns; ++i) {
    Event before, after;
    reset();
    REHEARSE_CUDA(cudaMemsetAsync(flush.get(), i, kFlush));
    before.record();
    run();
    after.record();
    times.push_back(after.micros_since(before));
  }
  t.median_us = quantile(times, 0.5);
  t.spread = (quantile(times, 0.9) - quantile(times, 0.1)) / t.median_us;

  const int runs = std::clamp(static_cast<int>(kSustainedMicros / t.median_us), 10, 20000);
  const Scratch first(kMaxSms * sizeof(Sample));
  const Scratch last(kMaxSms * sizeof(Sample));
  constexpr int kBlocks = 32 * kMaxSms;
  for (int i = 0; i < runs / 4; ++i) run();  // the clock settles
  Event before, after;
  read_clocks<<<kBlocks, 1>>>(static_cast<Sample*>(first.get()));
  before.record();
  for (int i = 0; i < runs; ++i) run();
  after.record();
  read_clocks<<<kBlocks, 1>>>(static_cast<Sample*>(last.get()));
  REHEARSE_CUDA(cudaGetLastError());
  t.sustained_us = after.micros_since(before) / runs;
  const std::vector<Sample> a = sample_clocks(first);
  const std::vector<Sample> b = sample_clocks(last);
  std::vector<double> clocks;
  for (int sm = 0; sm < kMaxSms; ++sm) {
    if (a[sm].nanoseconds == 0 || b[sm].nanoseconds <= a[sm].nanoseconds) continue;
    clocks.push_back(1e3 * static_cast<double>(b[sm].cycles - a[sm].cycles) /
                     static_cast<double>(b[sm].nanoseconds - a[sm].nanoseconds));
  }
  t.clock_mhz = clocks.empty() ? 0 : quantile(clocks, 0.5);
  return t;
}

Device measure_device() {
  Device d;
  int device = 0;
  REHEARSE_CUDA(cudaGetDevice(&device));
  REHEARSE_CUDA(cudaDeviceGetAttribute(&d.sms, cudaDevAttrMultiProcessorCount, device));
  constexpr size_t kBytes = size_t{4} << 30;
  const Scratch from(kBytes);
  const Scratch to(kBytes);
  std::vector<double> times;
  for (int i = 0; i < 12; ++i) {
    Event before, after;
    before.record();
    REHEARSE_CUDA(cudaMemcpyAsync(to.get(), from.get(), kBytes, cudaMemcpyDeviceToDevice));
    after.record();
    const double us = after.micros_since(before);
    if (i >= 2) times.push_back(us);
  }
  d.copy_bytes_per_second = 2.0 * static_cast<double>(kBytes) / (quantile(times, 0.5) * 1e-6);
  return d;
}

}  // namespace rehearse::kernels::gpu
