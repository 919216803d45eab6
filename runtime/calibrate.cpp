#include "runtime/calibrate.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include <fmt/format.h>

#include "kernels/adamw/adamw.h"
#include "kernels/add/add.h"
#include "kernels/attention/attention.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gate/gate.h"
#include "kernels/matmul/matmul.h"
#include "kernels/permute/permute.h"
#include "kernels/reduce/reduce.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/rope/rope.h"
#include "kernels/swiglu/swiglu.h"
#include "runtime/random.h"
#include "runtime/tensor.h"

namespace rehearse {
namespace {

using Clock = std::chrono::steady_clock;

// A kernel call with inputs of its own: operator() runs it once.
class Call {
 public:
  Call(const KernelCall& call, BufferPool& pool) : call_(call), pool_(pool) { prepare(); }
  void operator()() { run_(); }

 private:
  float* values(int64_t rows, int64_t columns) {
    tensors_.emplace_back(pool_, rows, columns);
    Tensor& t = tensors_.back();
    // Uniform in (-1, 1]: no kernel's time depends on the distribution, and it is drawn fast.
    for (int64_t i = 0; i < t.size(); ++i) {
      t.data()[i] = static_cast<float>(2 * random_.uniform() - 1);
    }
    return t.data();
  }
  std::span<const int32_t> indices(int64_t count, int64_t below) {
    auto list = std::make_unique<std::vector<int32_t>>(static_cast<size_t>(count));
    for (int32_t& i : *list) {
      i = static_cast<int32_t>(random_.next() % static_cast<uint64_t>(below));
    }
    lists_.push_back(std::move(list));
    return *lists_.back();
  }
  void prepare();
  void prepare_attention(bool backward);
  void prepare_gate(bool backward);

  KernelCall call_;
  BufferPool& pool_;
  std::vector<Tensor> tensors_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> lists_;
  std::unique_ptr<kernels::RopeTable> rope_;
  Random random_{1};
  double sink_ = 0;  // keeps results that nothing else reads
  std::function<void()> run_;
};

void Call::prepare_attention(bool backward) {
  const auto& s = call_.shape;
  // A third of the key without the shared rotated part is V3's split (128 of 192); only the sum
  // of both matters to the time.
  const int64_t rope = std::max<int64_t>(2, s[3] / 3);
  const kernels::AttentionShape shape{.sequences = s[0],
                                      .length = s[1],
                                      .heads = s[2],
                                      .qk_nope = s[3] - rope,
                                      .qk_rope = rope,
                                      .v_head = s[4],
                                      .k_rope_stride = rope};
  const int64_t t = shape.tokens();
  float* q = values(t, s[2] * s[3]);
  float* kv = values(t, s[2] * (shape.qk_nope + s[4]));
  float* k_rope = values(t, rope);
  float* o = values(t, s[2] * s[4]);
  float* lse = values(t, s[2]);
  if (!backward) {
    run_ = [=] { kernels::attention(shape, q, kv, k_rope, o, lse); };
    return;
  }
  float* d_o = values(t, s[2] * s[4]);
  const kernels::AttentionGradients out{.dq = values(t, s[2] * s[3]),
                                        .dkv = values(t, s[2] * (shape.qk_nope + s[4])),
                                        .dk_rope = values(t, rope)};
  kernels::attention(shape, q, kv, k_rope, o, lse);
  run_ = [=] { kernels::attention_backward(shape, d_o, q, kv, k_rope, o, lse, out); };
}

void Call::prepare_gate(bool backward) {
  const auto& s = call_.shape;
  // Four groups of which two are kept, where the experts allow it: the choice of groups costs.
  const int64_t groups = s[1] % 4 == 0 && s[1] / 2 >= s[2] ? 4 : 1;
  const kernels::GateShape shape{.tokens = s[0],
                                 .experts = s[1],
                                 .active = s[2],
                                 .groups = groups,
                                 .kept_groups = groups == 4 ? 2 : 1};
  float* logits = values(s[0], s[1]);
  float* bias = values(1, s[1]);
  float* scores = values(s[0], s[1]);
  float* weights = values(s[0], s[2]);
  lists_.push_back(std::make_unique<std::vector<int32_t>>(static_cast<size_t>(s[0] * s[2])));
  int32_t* chosen = lists_.back()->data();
  kernels::gate(shape, logits, bias, scores, chosen, weights);
  if (!backward) {
    run_ = [=] { kernels::gate(shape, logits, bias, scores, chosen, weights); };
    return;
  }
  const kernels::BalanceLoss loss{.length = s[0], .coefficient = 1e-4};
  run_ = [=] { kernels::gate_backward(shape, loss, weights, scores, chosen, logits); };
}

void Call::prepare() {
  const auto& s = call_.shape;
  const kernels::MatmulShape product{.m = s[0], .n = s[1], .k = s[2]};
  switch (call_.kernel) {
    case Kernel::kMatmul: {
      float* x = values(s[0], s[2]);
      float* w = values(s[1], s[2]);
      float* y = values(s[0], s[1]);
      run_ = [=] { kernels::matmul(product, x, w, y); };
      return;
    }
    case Kernel::kMatmulGradInput: {
      float* dy = values(s[0], s[1]);
      float* w = values(s[1], s[2]);
      float* dx = values(s[0], s[2]);
      run_ = [=] { kernels::matmul_grad_input(product, dy, w, dx, kernels::Store::kOverwrite); };
      return;
    }
    case Kernel::kMatmulGradWeight: {
      float* dy = values(s[0], s[1]);
      float* x = values(s[0], s[2]);
      float* dw = values(s[1], s[2]);
      run_ = [=] { kernels::matmul_grad_weight(product, dy, x, dw); };
      return;
    }
    case Kernel::kRmsNorm:
    case Kernel::kRmsNormBackward: {
      const kernels::RmsNormShape shape{.rows = s[0], .width = s[1], .x_stride = s[1]};
      float* x = values(s[0], s[1]);
      float* gain = values(1, s[1]);
      float* y = values(s[0], s[1]);
      float* inverse = values(s[0], 1);
      if (call_.kernel == Kernel::kRmsNorm) {
        run_ = [=] { kernels::rmsnorm(shape, x, gain, y, inverse); };
      } else {
        float* dx = values(s[0], s[1]);
        float* dgain = values(1, s[1]);
        float* addend = values(s[0], s[1]);
        run_ = [=] { kernels::rmsnorm_backward(shape, y, x, gain, inverse, addend, dx, dgain); };
      }
      return;
    }
    case Kernel::kRope: {
      rope_ = std::make_unique<kernels::RopeTable>(s[0], s[2], 10000);
      const kernels::RopeShape shape{
          .rows = s[0], .heads = s[1], .row_stride = s[1] * s[2], .head_stride = s[2]};
      float* x = values(s[0], s[1] * s[2]);
      run_ = [=, table = rope_.get()] { kernels::rope(shape, *table, kernels::Turn::kForward, x); };
      return;
    }
    case Kernel::kAttention:
    case Kernel::kAttentionBackward:
      prepare_attention(call_.kernel == Kernel::kAttentionBackward);
      return;
    case Kernel::kSwiglu:
    case Kernel::kSwigluBackward: {
      const kernels::SwigluShape shape{.rows = s[0], .width = s[1]};
      float* gate_up = values(s[0], 2 * s[1]);
      float* weight = values(s[0], 1);
      float* y = values(s[0], s[1]);
      if (call_.kernel == Kernel::kSwiglu) {
        run_ = [=] { kernels::swiglu(shape, gate_up, weight, y); };
      } else {
        float* d_gate_up = values(s[0], 2 * s[1]);
        float* d_weight = values(s[0], 1);
        run_ = [=] { kernels::swiglu_backward(shape, y, gate_up, weight, d_gate_up, d_weight); };
      }
      return;
    }
    case Kernel::kGate:
    case Kernel::kGateBackward:
      prepare_gate(call_.kernel == Kernel::kGateBackward);
      return;
    case Kernel::kPermute: {
      const auto map = indices(s[0], s[0]);
      float* tokens = values(s[0], s[1]);
      float* rows = values(s[0], s[1]);
      run_ = [=] { kernels::permute(map, s[1], tokens, rows); };
      return;
    }
    case Kernel::kUnpermute: {
      const auto map = indices(s[0] * s[1], s[0] * s[1]);
      float* rows = values(s[0] * s[1], s[2]);
      float* first = values(s[0], s[2]);
      float* second = values(s[0], s[2]);
      float* out = values(s[0], s[2]);
      run_ = [=] { kernels::unpermute({s[0], s[1], s[2]}, map.data(), rows, first, second, out); };
      return;
    }
    case Kernel::kAdd: {
      float* a = values(s[0], s[1]);
      float* b = values(s[0], s[1]);
      run_ = [=] { kernels::add(s[0] * s[1], a, b, a); };
      return;
    }
    case Kernel::kEmbedding:
    case Kernel::kEmbeddingBackward: {
      constexpr int64_t kVocabulary = 256;
      const auto tokens = indices(s[0], kVocabulary);
      float* table = values(kVocabulary, s[1]);
      float* x = values(s[0], s[1]);
      if (call_.kernel == Kernel::kEmbedding) {
        run_ = [=] { kernels::embedding(tokens, s[1], table, x); };
      } else {
        run_ = [=] { kernels::embedding_backward(tokens, s[1], x, table); };
      }
      return;
    }
    case Kernel::kCrossEntropy:
    case Kernel::kCrossEntropyBackward: {
      const auto targets = indices(s[0], s[1]);
      float* logits = values(s[0], s[1]);
      float* losses = values(s[0], 1);
      float* lse = values(s[0], 1);
      if (call_.kernel == Kernel::kCrossEntropy) {
        run_ = [=] { kernels::cross_entropy(targets, s[1], logits, losses, lse); };
      } else {
        run_ = [=] { kernels::cross_entropy_backward(targets, s[1], 1e-3f, lse, logits); };
      }
      return;
    }
    case Kernel::kAdamW: {
      float* g = values(s[0], 1);
      float* w = values(s[0], 1);
      float* m = values(s[0], 1);
      tensors_.emplace_back(pool_, s[0], 1);
      tensors_.back().fill(1);
      float* v = tensors_.back().data();
      run_ = [=] {
        kernels::adamw({.learning_rate = 1e-3, .weight_decay = 0.1, .step = 10}, s[0], g, w, m, v);
      };
      return;
    }
    case Kernel::kReduce: {
      std::vector<const float*> copies;
      for (int64_t c = 0; c < s[1]; ++c) copies.push_back(values(s[0], 1));
      float* out = values(s[0], 1);
      run_ = [=] { kernels::reduce(copies, s[0], out); };
      return;
    }
    case Kernel::kSquareSum: {
      float* x = values(s[0], 1);
      run_ = [=, this] { sink_ += kernels::square_sum(s[0], x); };
      return;
    }
    case Kernel::kFill: {
      float* x = values(s[0], 1);
      run_ = [=] { std::fill(x, x + s[0], 0.0f); };
      return;
    }
    case Kernel::kCopy: {
      float* from = values(s[0], 1);
      float* to = values(s[0], 1);
      run_ = [=] { std::copy(from, from + s[0], to); };
      return;
    }
  }
}

// The same call on inputs that take turns and together outgrow the second-level cache, since in a
// training step an op's inputs were made many ops ago.
class Bench {
 public:
  explicit Bench(const KernelCall& call) {
    constexpr int64_t kWorkingSet = 64 << 20;  // bytes: past L2 and the reach of the TLB
    constexpr int64_t kMost = 512;
    const int64_t bytes = std::max<int64_t>(1, memory_traffic(call, sizeof(float)).count());
    const int64_t copies = std::clamp<int64_t>(kWorkingSet / bytes + 1, 2, kMost);
    for (int64_t i = 0; i < copies; ++i) calls_.push_back(std::make_unique<Call>(call, pool_));
  }
  void operator()() {
    (*calls_[next_])();
    next_ = next_ + 1 == calls_.size() ? 0 : next_ + 1;
  }
  size_t copies() const { return calls_.size(); }

 private:
  BufferPool pool_;  // before what it serves
  std::vector<std::unique_ptr<Call>> calls_;
  size_t next_ = 0;
};

Duration since(Clock::time_point begin) {
  return Duration::nanoseconds(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count());
}

// Times of single calls for about `budget`, sorted; at least five.
std::vector<Duration> sample(Bench& bench, Duration budget) {
  for (size_t i = 0; i < bench.copies(); ++i) bench();
  // Calls too short for the clock are timed several at once.
  auto begin = Clock::now();
  bench();
  const Duration once = since(begin);
  const Duration least = Duration::microseconds(20);
  const int64_t batch =
      once >= least ? 1
                    : 1 + static_cast<int64_t>(least / std::max(once, Duration::nanoseconds(50)));
  std::vector<Duration> times;
  const auto start = Clock::now();
  while (times.size() < 5 || since(start) < budget) {
    begin = Clock::now();
    for (int64_t i = 0; i < batch; ++i) bench();
    times.push_back(Duration::picoseconds(since(begin).picoseconds() / batch));
  }
  std::sort(times.begin(), times.end());
  return times;
}

Duration quantile(const std::vector<Duration>& sorted, double q) {
  const auto at = static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5);
  return sorted[at];
}

}  // namespace

KernelTiming time_cpu_kernel(const KernelCall& call, int64_t cores, Duration budget) {
  Bench bench(call);
  const std::vector<Duration> alone = sample(bench, budget);
  KernelTiming timing{.median = quantile(alone, 0.5),
                      .low = quantile(alone, 0.05),
                      .high = quantile(alone, 0.95),
                      .busy = quantile(alone, 0.5)};
  if (cores < 2) return timing;
  std::atomic<bool> stop = false;
  std::atomic<int64_t> running = 0;
  std::vector<std::thread> others;
  for (int64_t c = 1; c < cores; ++c) {
    others.emplace_back([&] {
      Bench mine(call);
      ++running;
      while (!stop) mine();
    });
  }
  while (running < cores - 1) std::this_thread::yield();
  timing.busy = std::max(timing.median, quantile(sample(bench, budget), 0.5));
  stop = true;
  for (std::thread& t : others) t.join();
  return timing;
}

Duration time_lane_handover() {
  constexpr int kRounds = 2000;
  std::mutex mutex;
  std::condition_variable wake[2];
  int turn = 0;
  const auto pass = [&](int me) {
    for (int i = 0; i < kRounds; ++i) {
      std::unique_lock lock(mutex);
      wake[me].wait(lock, [&] { return turn == me; });
      turn = 1 - me;
      wake[1 - me].notify_one();
    }
  };
  const auto begin = Clock::now();
  std::thread other([&] { pass(1); });
  pass(0);
  other.join();
  return Duration::picoseconds(since(begin).picoseconds() / (2 * kRounds));
}

std::string processor_name() {
  std::ifstream cpus("/proc/cpuinfo");
  for (std::string line; std::getline(cpus, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

std::string build_description() {
  return fmt::format("g++ {}.{}, {}", __GNUC__, __GNUC_MINOR__, kernels::matmul_library());
}

}  // namespace rehearse
