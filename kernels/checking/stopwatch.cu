#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <vector>

#include <dlfcn.h>

#include "kernels/checking/stopwatch.h"
#include "kernels/ptx/gpu/clock.cuh"
#include "kernels/ptx/gpu/launch.cuh"

namespace rehearse::kernels::gpu {
namespace {

constexpr int kRuns = 30;
// Set to zero before every single run, as the authors of published figures do (DeepGEMM's
// bench_kineto): takes milliseconds, in which the L2 is emptied and the clock recovers.
constexpr size_t kFlush = 8'000'000'000;
constexpr double kSustainedMicros = 1e5;  // of back-to-back runs
constexpr double kTurnMicros = 3e4;
constexpr double kGraphMicros = 2e4;  // of a graph
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

// What the driver's management library says, where there is one.
class Nvml {
 public:
  static const Nvml& instance() {
    static const Nvml nvml;
    return nvml;
  }
  double power_w() const {
    unsigned milliwatts = 0;
    return power_ && power_(device_, &milliwatts) == 0 ? milliwatts * 1e-3 : 0;
  }
  uint64_t clock_reasons() const {
    unsigned long long bits = 0;
    return reasons_ && reasons_(device_, &bits) == 0 ? bits : 0;
  }

 private:
  Nvml() {
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) return;
    const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
    const auto get = reinterpret_cast<int (*)(unsigned, void**)>(
        dlsym(library, "nvmlDeviceGetHandleByIndex_v2"));
    if (!init || !get || init() != 0 || get(0, &device_) != 0) return;
    power_ = reinterpret_cast<decltype(power_)>(dlsym(library, "nvmlDeviceGetPowerUsage"));
    reasons_ = reinterpret_cast<decltype(reasons_)>(
        dlsym(library, "nvmlDeviceGetCurrentClocksThrottleReasons"));
  }
  void* device_ = nullptr;
  int (*power_)(void*, unsigned*) = nullptr;
  int (*reasons_)(void*, unsigned long long*) = nullptr;
};

// One thread per block, as much shared memory as an SM has: blocks that are alone on their SMs
// until told to end, or for ten seconds. Looks at the device's memory only: polling the host's
// would keep its launches waiting.
__global__ void spin(const volatile int* stop, int* started) {
  atomicAdd_system(started, 1);
  const uint64_t begin = ptx::nanoseconds();
  while (*stop == 0 && ptx::nanoseconds() - begin < 10'000'000'000) __nanosleep(20000);
}

// Of work that is captured once.
class Graph {
 public:
  Graph(const std::function<void(Stream)>& run, int repeats) {
    cudaStream_t stream = nullptr;
    REHEARSE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    REHEARSE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    for (int i = 0; i < repeats; ++i) run({stream});
    cudaGraph_t graph = nullptr;
    REHEARSE_CUDA(cudaStreamEndCapture(stream, &graph));
    REHEARSE_CUDA(cudaGraphInstantiate(&graph_, graph, 0));
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  ~Graph() { cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch() { REHEARSE_CUDA(cudaGraphLaunch(graph_, nullptr)); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

std::vector<Sample> sample_clocks(const Scratch& room) {
  std::vector<Sample> samples(kMaxSms);
  REHEARSE_CUDA(
      cudaMemcpy(samples.data(), room.get(), kMaxSms * sizeof(Sample), cudaMemcpyDeviceToHost));
  return samples;
}

}  // namespace

Timing time_gpu(const std::function<void(Stream)>& run) {
  static const Scratch flush(kFlush);
  Timing t;
  for (int i = 0; i < 3; ++i) run({});
  REHEARSE_CUDA(cudaDeviceSynchronize());

  std::vector<double> times;
  for (int i = 0; i < kRuns; ++i) {
    Event before, after;
    REHEARSE_CUDA(cudaMemsetAsync(flush.get(), i, kFlush));
    before.record();
    run({});
    after.record();
    times.push_back(after.micros_since(before));
  }
  t.median_us = quantile(times, 0.5);
  t.spread = (quantile(times, 0.9) - quantile(times, 0.1)) / t.median_us;

  const int repeats = std::clamp(static_cast<int>(kGraphMicros / t.median_us), 4, 200);
  Graph graph(run, repeats);
  for (int i = 0; i < 2; ++i) {
    Event before, after;
    before.record();
    graph.launch();
    after.record();
    t.graph_us = after.micros_since(before) / repeats;
  }

  const int runs = std::clamp(static_cast<int>(kSustainedMicros / t.median_us), 10, 20000);
  const Scratch first(kMaxSms * sizeof(Sample));
  const Scratch last(kMaxSms * sizeof(Sample));
  constexpr int kBlocks = 32 * kMaxSms;
  for (int i = 0; i < runs / 4; ++i) run({});  // the clock settles
  Event before, after;
  read_clocks<<<kBlocks, 1>>>(static_cast<Sample*>(first.get()));
  before.record();
  for (int i = 0; i < runs; ++i) run({});
  after.record();
  read_clocks<<<kBlocks, 1>>>(static_cast<Sample*>(last.get()));
  REHEARSE_CUDA(cudaGetLastError());
  // Launches run ahead of the GPU, which is still busy here.
  t.power_w = Nvml::instance().power_w();
  t.clock_reasons = Nvml::instance().clock_reasons();
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

Pair time_by_turns(const std::function<void(Stream)>& run,
                   const std::function<void(Stream)>& other) {
  constexpr int kTurns = 5;
  std::vector<double> times[2];
  for (int turn = 0; turn < 2 * kTurns; ++turn) {
    const std::function<void(Stream)>& work = turn % 2 == 0 ? run : other;
    const auto time = [&](int runs) {
      Event before, after;
      before.record();
      for (int i = 0; i < runs; ++i) work({});
      after.record();
      return after.micros_since(before) / runs;
    };
    const int runs = std::clamp(static_cast<int>(kTurnMicros / time(2)), 4, 2000);
    times[turn % 2].push_back(time(runs));
  }
  return {quantile(times[0], 0.5), quantile(times[1], 0.5)};
}

double time_beside_spinner(const std::function<void(Stream)>& run, int sms) {
  int* started = nullptr;
  REHEARSE_CUDA(cudaHostAlloc(&started, sizeof(int), cudaHostAllocMapped));
  *started = 0;
  const Scratch stop(sizeof(int));
  cudaStream_t spinning = nullptr;
  cudaStream_t stopping = nullptr;
  REHEARSE_CUDA(cudaStreamCreateWithFlags(&spinning, cudaStreamNonBlocking));
  REHEARSE_CUDA(cudaStreamCreateWithFlags(&stopping, cudaStreamNonBlocking));
  REHEARSE_CUDA(
      cudaFuncSetAttribute(spin, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes));
  std::vector<Event> events(2 * kRuns);
  // Nothing but launches while it spins: whatever waits for the whole device would wait for it.
  run({});
  REHEARSE_CUDA(cudaMemsetAsync(stop.get(), 0, sizeof(int), stopping));
  REHEARSE_CUDA(cudaDeviceSynchronize());
  spin<<<sms, 1, kMaxSharedBytes, spinning>>>(static_cast<int*>(stop.get()), started);
  REHEARSE_CUDA(cudaGetLastError());
  const auto begin = std::chrono::steady_clock::now();
  while (*static_cast<volatile int*>(started) < sms) {
    if (std::chrono::steady_clock::now() - begin > std::chrono::seconds(5)) {
      throw std::runtime_error("the spinner's blocks did not all start");
    }
  }
  for (int i = 0; i < kRuns; ++i) {
    events[2 * i].record();
    run({});
    events[2 * i + 1].record();
  }
  std::vector<double> times;
  for (int i = 0; i < kRuns; ++i) times.push_back(events[2 * i + 1].micros_since(events[2 * i]));
  REHEARSE_CUDA(cudaMemsetAsync(stop.get(), 1, sizeof(int), stopping));
  REHEARSE_CUDA(cudaDeviceSynchronize());
  REHEARSE_CUDA(cudaStreamDestroy(spinning));
  REHEARSE_CUDA(cudaStreamDestroy(stopping));
  REHEARSE_CUDA(cudaFreeHost(started));
  return quantile(times, 0.5);
}

Device measure_device() {
  Device d;
  int device = 0;
  REHEARSE_CUDA(cudaGetDevice(&device));
  REHEARSE_CUDA(cudaDeviceGetAttribute(&d.sms, cudaDevAttrMultiProcessorCount, device));
  cudaDeviceProp properties;
  REHEARSE_CUDA(cudaGetDeviceProperties(&properties, device));
  d.name = properties.name;
  int driver = 0;
  REHEARSE_CUDA(cudaDriverGetVersion(&driver));
  d.driver = std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
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
