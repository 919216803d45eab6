#include "runtime/kernel_bench.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <thread>

#include <sched.h>

#include "base/big_memory.h"
#include "base/random.h"
#include "kernels/adamw/adamw.h"
#include "kernels/add/add.h"
#include "kernels/attention/attention.h"
#include "kernels/convert/convert.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gate/gate.h"
#include "kernels/matmul/matmul.h"
#include "kernels/permute/permute.h"
#include "kernels/quantize/quantize.h"
#include "kernels/reduce/reduce.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/rope/rope.h"
#include "kernels/swiglu/swiglu.h"

namespace rehearse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kLine = 16;  // elements of 64 bytes

// Memory that one thread's calls cut their operands from.
class WorkingSet {
 public:
  explicit WorkingSet(uint64_t seed) : seed_(seed) {}

  // The next `elements` of it, from the front again where it ends.
  float* next(int64_t elements) {
    CHECK(elements <= end_) << elements << " of " << end_ << " elements";
    if (at_ + elements > end_) at_ = 0;
    float* p = data_.data() + at_;
    at_ += (elements + kLine - 1) / kLine * kLine;
    return p;
  }
  // From now on operands come from the first `elements`. No pointer from before is valid. Where
  // the turn of the last call ended the next one's begins, so that no call finds the other's warm.
  void use(int64_t elements) {
    end_ = elements;
    if (elements <= static_cast<int64_t>(data_.size())) return;
    data_.resize(static_cast<size_t>(elements));
    // Uniform in (-1, 1]: no kernel's time depends on the distribution, and it is drawn fast.
    Random random(seed_);
    for (float& x : data_) x = static_cast<float>(2 * random.uniform() - 1);
  }

 private:
  uint64_t seed_;
  std::vector<float, BigAllocator<float>> data_;
  int64_t end_ = 0;
  int64_t at_ = 0;
};

// One core's operands. What a kernel writes is never another's input: sums over many calls would
// grow, and exponentials of them fall among the denormal numbers that no training step computes.
struct Operands {
  // elements: of each stored arena.
  explicit Operands(int64_t elements) : stored(elements) {}

  WorkingSet read{1}, written{2};  // stored
  WorkingSet fresh{3}, reused{4};  // read, and written, in the same place by every call
  int64_t stored;
};

// Half of a working set that no cache keeps until its turn comes again, as a training step's. The
// cores that run beside the timed one need only keep the memory busy together.
constexpr int64_t kStored = int64_t{32} << 20;  // elements: 128 MiB
int64_t stored_beside(int64_t cores) {
  return std::max(kStored / 8, kStored * 2 / cores);
}

// A kernel call on operands; operator() runs it once, on other stored operands each time.
class Call {
 public:
  Call(const KernelCall& call, Operands& operands) : call_(call), o_(operands) {
    // All operands of a call, each rounded up to whole lines, would stand in an arena side by side.
    const int64_t most = memory_traffic(call, 1).count() + kVocabulary * call.shape[1] + 1024;
    o_.read.use(std::max(most, o_.stored));
    o_.written.use(std::max(most, o_.stored));
    o_.fresh.use(most);
    o_.reused.use(3 * most);
    prepare();
  }
  void operator()() { run_(); }
  // As if the kernel before had just written the fresh operands.
  void refresh() {
    for (const auto& [data, elements] : fresh_) {
      for (int64_t i = 0; i < elements; i += kLine) asm volatile("" : "+m"(data[i]));
    }
  }

 private:
  float* fresh(int64_t elements) {
    float* data = o_.fresh.next(elements);
    fresh_.emplace_back(data, elements);
    return data;
  }
  float* reused(int64_t elements) const { return o_.reused.next(elements); }
  float* read(int64_t elements) const { return o_.read.next(elements); }
  float* written(int64_t elements) const { return o_.written.next(elements); }
  std::span<const int32_t> indices(int64_t count, int64_t below) {
    indices_.resize(static_cast<size_t>(count));
    Random random(4);
    for (int32_t& i : indices_) {
      i = static_cast<int32_t>(random.next() % static_cast<uint64_t>(below));
    }
    return indices_;
  }
  // Of the embedding table: bytes.
  static constexpr int64_t kVocabulary = 256;

  void prepare();
  void prepare_matmul();
  void prepare_attention();
  void prepare_gate();
  void prepare_rows();
  void prepare_vocabulary();
  void prepare_elements();
  void prepare_scaled(int64_t elements);

  KernelCall call_;
  Operands& o_;
  std::vector<std::pair<float*, int64_t>> fresh_;
  std::vector<int32_t> indices_;
  std::unique_ptr<kernels::RopeTable> rope_;
  double sink_ = 0;  // keeps results that nothing else reads
  std::function<void()> run_;
};

void Call::prepare_matmul() {
  const auto& s = call_.shape;
  const kernels::MatmulShape shape{.m = s[0], .n = s[1], .k = s[2]};
  const int64_t x_size = s[0] * s[2];
  const int64_t y_size = s[0] * s[1];
  const int64_t w_size = s[1] * s[2];
  if (call_.kernel == Kernel::kMatmul) {
    float* x = fresh(x_size);
    run_ = [=, this] { kernels::matmul(shape, x, read(w_size), written(y_size)); };
  } else if (call_.kernel == Kernel::kMatmulGradInput) {
    float* dy = fresh(y_size);
    run_ = [=, this] {
      kernels::matmul_grad_input(
          shape, dy, read(w_size), written(x_size), kernels::Store::kOverwrite);
    };
  } else {
    float* dy = fresh(y_size);
    run_ = [=, this] { kernels::matmul_grad_weight(shape, dy, read(x_size), written(w_size)); };
  }
}

void Call::prepare_attention() {
  const auto s = call_.shape;
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
  const int64_t q = t * s[2] * s[3];
  const int64_t kv = t * s[2] * (shape.qk_nope + s[4]);
  const int64_t o = t * s[2] * s[4];
  const int64_t lse = t * s[2];
  if (call_.kernel == Kernel::kAttention) {
    float* q_in = fresh(q);
    float* kv_in = fresh(kv);
    float* k_rope = fresh(t * rope);
    run_ = [=, this] { kernels::attention(shape, q_in, kv_in, k_rope, written(o), written(lse)); };
    return;
  }
  float* d_o = fresh(o);
  run_ = [=, this] {
    const kernels::AttentionGradients out{
        .dq = written(q), .dkv = written(kv), .dk_rope = written(t * rope)};
    kernels::attention_backward(
        shape, d_o, read(q), read(kv), read(t * rope), read(o), read(lse), out);
  };
}

void Call::prepare_gate() {
  const auto& s = call_.shape;
  // Four groups of which two are kept, where the experts allow it: the choice of groups costs.
  const int64_t groups = s[1] % 4 == 0 && s[1] / 2 >= s[2] ? 4 : 1;
  const kernels::GateShape shape{.tokens = s[0],
                                 .experts = s[1],
                                 .active = s[2],
                                 .groups = groups,
                                 .kept_groups = groups == 4 ? 2 : 1};
  indices_.resize(static_cast<size_t>(s[0] * s[2]));
  if (call_.kernel == Kernel::kGate) {
    float* logits = fresh(s[0] * s[1]);
    float* bias = fresh(s[1]);
    run_ = [=, this] {
      kernels::gate(
          shape, logits, bias, written(s[0] * s[1]), indices_.data(), written(s[0] * s[2]));
    };
    return;
  }
  indices(s[0] * s[2], s[1]);
  const kernels::BalanceLoss loss{.length = s[0], .coefficient = 1e-4};
  float* d_weights = fresh(s[0] * s[2]);
  run_ = [=, this] {
    kernels::gate_backward(
        shape, loss, d_weights, read(s[0] * s[1]), indices_.data(), written(s[0] * s[1]));
  };
}

// Kernels that go over rows of one width.
void Call::prepare_rows() {
  const auto& s = call_.shape;
  const int64_t n = s[0] * s[1];
  const kernels::RmsNormShape norm{.rows = s[0], .width = s[1], .x_stride = s[1]};
  const kernels::SwigluShape swiglu{.rows = s[0], .width = s[1]};
  switch (call_.kernel) {
    case Kernel::kRmsNorm: {
      float* x = fresh(n);
      float* gain = fresh(s[1]);
      run_ = [=, this] { kernels::rmsnorm(norm, x, gain, written(n), written(s[0])); };
      return;
    }
    case Kernel::kRmsNormBackward: {
      float* dy = fresh(n);
      float* gain = fresh(s[1]);
      float* inverse = fresh(s[0]);
      float* d_gain = reused(s[1]);
      run_ = [=, this] {
        kernels::rmsnorm_backward(norm, dy, read(n), gain, inverse, read(n), written(n), d_gain);
      };
      return;
    }
    case Kernel::kRope: {
      rope_ = std::make_unique<kernels::RopeTable>(s[0], s[2], 10000);
      // The rotated part is the last third of a head, as in V3 (64 of 192).
      const kernels::RopeShape shape{
          .rows = s[0], .heads = s[1], .row_stride = 3 * s[1] * s[2], .head_stride = 3 * s[2]};
      float* x = reused(3 * n * s[2]);
      run_ = [=, table = rope_.get()] { kernels::rope(shape, *table, kernels::Turn::kForward, x); };
      return;
    }
    case Kernel::kSwiglu: {
      float* gate_up = fresh(2 * n);
      float* weight = fresh(s[0]);
      run_ = [=, this] { kernels::swiglu(swiglu, gate_up, weight, written(n)); };
      return;
    }
    case Kernel::kSwigluBackward: {
      float* dy = fresh(n);
      float* weight = fresh(s[0]);
      float* d_weight = reused(s[0]);
      run_ = [=, this] {
        kernels::swiglu_backward(swiglu, dy, read(2 * n), weight, written(2 * n), d_weight);
      };
      return;
    }
    case Kernel::kPermute: {
      const auto map = indices(s[0], s[0]);
      float* tokens = fresh(n);
      float* rows = reused(n);
      run_ = [=] { kernels::permute(map, s[1], tokens, rows); };
      return;
    }
    case Kernel::kUnpermute: {
      const auto map = indices(s[0] * s[1], s[0] * s[1]);
      const int64_t out = s[0] * s[2];
      float* rows = fresh(n * s[2]);
      float* second = fresh(out);
      run_ = [=, this] {
        kernels::unpermute({s[0], s[1], s[2]}, map.data(), rows, read(out), second, written(out));
      };
      return;
    }
    case Kernel::kRoundColumns: {
      float* const values = reused(n);
      run_ = [=] { kernels::round_columns(s[0], s[1], {}, values); };
      return;
    }
    default: {  // add
      float* sum = reused(n);
      run_ = [=, this] { kernels::add(n, sum, read(n), sum); };
      return;
    }
  }
}

// Kernels that look tokens up in a vocabulary.
void Call::prepare_vocabulary() {
  const auto& s = call_.shape;
  const int64_t n = s[0] * s[1];
  switch (call_.kernel) {
    case Kernel::kEmbedding:
    case Kernel::kEmbeddingBackward: {
      const auto tokens = indices(s[0], kVocabulary);
      float* d_x = fresh(n);
      if (call_.kernel == Kernel::kEmbedding) {
        run_ = [=, this] {
          kernels::embedding(tokens, s[1], read(kVocabulary * s[1]), written(n));
        };
      } else {
        run_ = [=, this] {
          kernels::embedding_backward(tokens, s[1], d_x, written(kVocabulary * s[1]));
        };
      }
      return;
    }
    default: {
      const auto targets = indices(s[0], s[1]);
      if (call_.kernel == Kernel::kCrossEntropy) {
        float* logits = fresh(n);
        float* losses = reused(s[0]);
        float* lse = reused(s[0]);
        run_ = [=] { kernels::cross_entropy(targets, s[1], logits, losses, lse); };
      } else {
        const float* lse = fresh(s[0]);
        float* logits = reused(n);
        run_ = [=] { kernels::cross_entropy_backward(targets, s[1], 1e-3f, lse, logits); };
      }
      return;
    }
  }
}

// Kernels that go over parameters.
void Call::prepare_elements() {
  const int64_t n = call_.shape[0];
  switch (call_.kernel) {
    case Kernel::kAdamW: {
      float* v = reused(n);
      // The second moments must be positive; they take no turns then, but nothing else is fresh.
      for (int64_t i = 0; i < n; ++i) v[i] = 1;
      run_ = [=, this] {
        kernels::adamw({.learning_rate = 1e-3, .weight_decay = 0.1, .step = 10},
                       n,
                       read(n),
                       written(n),
                       written(n),
                       v);
      };
      return;
    }
    case Kernel::kReduce: {
      const int64_t copies = call_.shape[1];
      run_ = [=, this] {
        std::vector<const float*> from;
        for (int64_t c = 0; c < copies; ++c) from.push_back(read(n));
        kernels::reduce(from, n, written(n));
      };
      return;
    }
    case Kernel::kSquareSum:
      run_ = [=, this] { sink_ += kernels::square_sum(n, read(n)); };
      return;
    case Kernel::kFill:
      run_ = [=, this] {
        float* x = written(n);
        std::fill(x, x + n, 0.0f);
      };
      return;
    case Kernel::kConvert: {
      // Half of it as an op reads and half as it writes, close by: what a kernel's time has of
      // operands that come from afar is not counted a second time.
      const int64_t half = n / 2;
      float* const wide = reused(half);
      float* const narrow = reused(half);
      run_ = [=] {
        auto* const kept = reinterpret_cast<kernels::Bf16*>(narrow);
        kernels::convert(half, kept, wide);
        kernels::convert(n - half, wide, kept);
      };
      return;
    }
    case Kernel::kQuantize:
    case Kernel::kDequantize:
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return prepare_scaled(n);
    default:  // copy
      run_ = [=, this] {
        const float* from = read(n);
        std::copy(from, from + n, written(n));
      };
      return;
  }
}

// Codes with scales, one row: as an op reads or writes them, close by, as above.
void Call::prepare_scaled(int64_t n) {
  float* const wide = reused(n);
  auto* const codes = reinterpret_cast<uint8_t*>(reused(n / 2 + kLine));
  float* const scales = reused(n / kernels::kScaleBlock + 1);
  kernels::quantize_rows(1, n, wide, {}, codes, scales, 1);
  switch (call_.kernel) {
    case Kernel::kQuantize:
      run_ = [=] { kernels::quantize_rows(1, n, wide, {}, codes, scales, 1); };
      return;
    case Kernel::kDequantize:
      run_ = [=] { kernels::dequantize_rows(1, n, codes, scales, 1, wide); };
      return;
    case Kernel::kPackE5m6:
      run_ = [=] { kernels::pack_e5m6(1, n, wide, codes, scales, 1); };
      return;
    default:
      kernels::pack_e5m6(1, n, wide, codes, scales, 1);
      run_ = [=] { kernels::unpack_e5m6(1, n, codes, scales, 1, wide); };
      return;
  }
}

void Call::prepare() {
  switch (call_.kernel) {
    case Kernel::kMatmul:
    case Kernel::kMatmulGradInput:
    case Kernel::kMatmulGradWeight:
      return prepare_matmul();
    case Kernel::kAttention:
    case Kernel::kAttentionBackward:
      return prepare_attention();
    case Kernel::kGate:
    case Kernel::kGateBackward:
      return prepare_gate();
    case Kernel::kRmsNorm:
    case Kernel::kRmsNormBackward:
    case Kernel::kRope:
    case Kernel::kSwiglu:
    case Kernel::kSwigluBackward:
    case Kernel::kPermute:
    case Kernel::kUnpermute:
    case Kernel::kAdd:
    case Kernel::kRoundColumns:
      return prepare_rows();
    case Kernel::kEmbedding:
    case Kernel::kEmbeddingBackward:
    case Kernel::kCrossEntropy:
    case Kernel::kCrossEntropyBackward:
      return prepare_vocabulary();
    case Kernel::kAdamW:
    case Kernel::kReduce:
    case Kernel::kSquareSum:
    case Kernel::kCopy:
    case Kernel::kFill:
    case Kernel::kConvert:
    case Kernel::kQuantize:
    case Kernel::kDequantize:
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return prepare_elements();
  }
}

Duration since(Clock::time_point begin) {
  return Duration::nanoseconds(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count());
}

// Times of single calls for about `budget`, at least one. Few in a row: in a step another kernel
// follows soon, and finds its code and pages as cold.
void sample(Call& call, Duration budget, std::vector<Duration>& times) {
  constexpr int kMost = 8;
  const auto start = Clock::now();
  for (int i = 0; i < kMost && (i == 0 || since(start) < budget); ++i) {
    call.refresh();
    const auto begin = Clock::now();
    call();
    times.push_back(since(begin));
  }
}

// The processors this process may use, and its threads on them one by one. Cores of a virtual
// machine differ in speed from one minute to the next, so each takes its turn in being timed.
class Processors {
 public:
  Processors() {
    CPU_ZERO(&all_);
    CHECK(::sched_getaffinity(0, sizeof(all_), &all_) == 0) << "no affinity";
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &all_)) list_.push_back(i);
    }
  }
  ~Processors() { ::sched_setaffinity(0, sizeof(all_), &all_); }
  Processors(const Processors&) = delete;
  Processors& operator=(const Processors&) = delete;

  // The calling thread from now on runs on the i-th, counted round.
  void stay_on(int64_t i) const {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(list_[static_cast<size_t>(i) % list_.size()], &one);
    ::sched_setaffinity(0, sizeof(one), &one);
  }

 private:
  cpu_set_t all_;
  std::vector<int> list_;
};

// The other cores, each running the same kernel over and over until told another.
class Company {
 public:
  Company(const std::vector<KernelCall>& calls,
          std::vector<std::unique_ptr<Operands>>& operands,
          const Processors& processors,
          int64_t turn)
      : calls_(calls) {
    for (size_t c = 1; c < operands.size(); ++c) {
      threads_.emplace_back([this, c, turn, &processors, &o = *operands[c]] {
        processors.stay_on(turn + static_cast<int64_t>(c));
        keep_running(o);
      });
    }
  }
  ~Company() {
    wanted_ = kStop;
    for (std::thread& t : threads_) t.join();
  }
  Company(const Company&) = delete;
  Company& operator=(const Company&) = delete;

  // Returns when all run call `i`. Waits awake: a core that has slept is slow at first.
  void run(size_t i) {
    running_ = 0;
    wanted_ = static_cast<int64_t>(i);
    while (running_ < threads_.size()) {
    }
  }

 private:
  static constexpr int64_t kNothing = -1;
  static constexpr int64_t kStop = -2;

  void keep_running(Operands& operands) {
    while (wanted_ != kStop) {
      const int64_t now = wanted_;
      if (now < 0) continue;
      Call call(calls_[static_cast<size_t>(now)], operands);
      call();
      ++running_;
      while (wanted_ == now) {
        call.refresh();
        call();
      }
    }
  }

  const std::vector<KernelCall>& calls_;
  std::atomic<int64_t> wanted_ = kNothing;
  std::atomic<size_t> running_ = 0;
  std::vector<std::thread> threads_;  // last: they use the rest
};

}  // namespace

struct KernelBench::State {
  std::vector<std::unique_ptr<Operands>> operands;  // by core
};

KernelBench::KernelBench(int64_t cores) : state_(std::make_unique<State>()) {
  for (int64_t c = 0; c < cores; ++c) {
    state_->operands.push_back(std::make_unique<Operands>(c == 0 ? kStored : stored_beside(cores)));
  }
}

KernelBench::~KernelBench() = default;

std::vector<std::vector<KernelRound>> KernelBench::time(const std::vector<KernelCall>& calls,
                                                        const Options& options) {
  std::vector<std::vector<KernelRound>> rounds(calls.size());
  const Processors processors;
  int64_t done = 0;
  const int64_t conditions = state_->operands.size() < 2 ? 1 : 2;
  const auto tell = [&](size_t i) {
    if (options.progress) options.progress(++done / conditions, calls[i]);
  };
  // The timing thread never sleeps: a step's threads do not either.
  const int64_t end = options.first_round + options.rounds;
  for (int64_t round = options.first_round; round < end; ++round) {
    processors.stay_on(round);
    Operands& mine = *state_->operands.front();
    for (size_t i = 0; i < calls.size(); ++i) {
      rounds[i].emplace_back();
      Call call(calls[i], mine);
      sample(call, options.budget, rounds[i].back().alone);
      tell(i);
    }
    if (state_->operands.size() < 2) continue;
    Company company(calls, state_->operands, processors, round);
    for (size_t i = 0; i < calls.size(); ++i) {
      company.run(i);
      Call call(calls[i], mine);
      sample(call, options.budget, rounds[i].back().busy);
      tell(i);
    }
  }
  return rounds;
}

}  // namespace rehearse
