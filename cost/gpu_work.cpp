#include "cost/gpu_work.h"

#include <array>
#include <numeric>

namespace rehearse {
namespace {

// Appends tasks for one op; the functions below read as the list of an op's work. Bytes per element
// are written as what is read plus what is written.
class Tasks {
 public:
  Tasks(const Architecture& a, const OpShape& op, const GpuRecipe& recipe)
      : a_(a),
        op_(op),
        fp8_(recipe.format == Format::kFp8),
        context_parallel_(recipe.context_parallel),
        t_(op.sequences * op.length / recipe.context_parallel),
        rows_(std::accumulate(op.expert_rows.begin(), op.expert_rows.end(), int64_t{0})),
        arrived_(op.exchange ? op.exchange->arrived : t_) {}

  void attention_forward() {
    if (a_.q_lora) product(*a_.q_lora, a_.hidden);
    product(a_.kv_lora + a_.qk_rope, a_.hidden);
    up_projections();
    core(a_.qk_head() + a_.v_head, 2 * a_.qk_head() + 2 * a_.v_head);
    product(a_.hidden, values());
    bytes(WorkKind::kNorm, t_ * (2 * a_.hidden + lora()) * (2 + 2));
    cast(a_.hidden + lora());
    cast(2 * values());  // for the product, and to keep for backward
    if (op_.moe) cast(a_.hidden);
    rope(1);
    if (op_.moe) bytes(WorkKind::kGate, gate_bytes());
    // The residual, and values made contiguous.
    bytes(WorkKind::kElementwise, t_ * a_.hidden * (4 + 2) + context() * values() * (2 + 2));
  }

  void attention_input() {
    product(values(), a_.hidden);
    up_projections();  // recomputed
    core(3 * a_.qk_head() + 2 * a_.v_head, 4 * a_.qk_head() + 4 * a_.v_head);
    product(a_.q_lora.value_or(a_.hidden), queries());
    add_product(Family::kDense, 1, context(), a_.kv_lora, keys_values());
    product(a_.hidden, a_.kv_lora + a_.qk_rope);
    if (a_.q_lora) product(a_.hidden, *a_.q_lora);
    bytes(WorkKind::kNorm, t_ * (2 * a_.hidden + lora()) * (4 + 2));  // backward
    bytes(WorkKind::kNorm, t_ * (a_.hidden + lora()) * (2 + 2));      // recomputed
    cast(2 * a_.hidden + 2 * lora());
    // What was kept is decoded; gradients of the large tensors are cast for both products.
    cast(2 * values() + 2 * queries());
    cast_rows(context(), 2 * keys_values());
    transpose_weights(a_.hidden * values() + queries() * a_.q_lora.value_or(a_.hidden) +
                      keys_values() * a_.kv_lora + (a_.kv_lora + a_.qk_rope) * a_.hidden +
                      a_.q_lora.value_or(0) * a_.hidden);
    rope(3);  // again, and backwards: gradients of keys and of values are put together
    if (op_.moe) bytes(WorkKind::kGate, gate_bytes());
    bytes(
        WorkKind::kElementwise,
        t_ * a_.hidden * (4 + 2) + context() * values() * (2 + 2) + t_ * a_.heads * a_.qk_rope * 2);
  }

  void attention_weight() {
    weight(a_.hidden, values());
    add_product(Family::kWeight, 1, context(), keys_values(), a_.kv_lora);
    weight(queries(), a_.q_lora.value_or(a_.hidden));
    weight(a_.kv_lora + a_.qk_rope, a_.hidden);
    if (a_.q_lora) weight(*a_.q_lora, a_.hidden);
  }

  void mlp_forward() {
    const int64_t width = op_.moe ? shared() : a_.dense_intermediate;
    const int64_t i = a_.expert_intermediate;
    if (width > 0) product(2 * width, a_.hidden);
    if (op_.moe) {
      grouped(2 * i, a_.hidden);
      grouped(a_.hidden, i);
    }
    if (width > 0) product(a_.hidden, width);
    bytes(WorkKind::kActivation, (t_ * width + rows_ * i) * (4 + (fp8_ ? 1 : 2)));
    cast_rows(t_, 2 * width);  // SwiGLU's inputs, to keep for backward
    cast_rows(rows_, 2 * i);
    if (op_.moe) transpose_weights(groups() * 3 * i * a_.hidden);
    permute();
    move_scales(a_.hidden + i);
    // The routing weights, or a dense layer's residual.
    bytes(WorkKind::kElementwise, op_.moe ? rows_ * (4 + 4) : t_ * a_.hidden * (4 + 2));
  }

  void mlp_input() {
    const int64_t width = op_.moe ? shared() : a_.dense_intermediate;
    const int64_t i = a_.expert_intermediate;
    if (width > 0) product(width, a_.hidden);
    if (op_.moe) {
      grouped(i, a_.hidden);
      grouped(a_.hidden, 2 * i);
    }
    if (width > 0) product(a_.hidden, 2 * width);
    // SwiGLU again and its gradients: reads both inputs and the output's gradient, writes the
    // output and both gradients; then the routing weights' gradients.
    bytes(WorkKind::kActivation, (t_ * width + rows_ * i) * (6 + 6));
    // What was kept decoded, gradients cast for the next product and, transposed, for the weights'.
    cast_rows(t_, 2 * a_.hidden + 7 * width);
    cast_rows(rows_, 7 * i);
    transpose_weights(3 * width * a_.hidden);
    bytes(WorkKind::kNorm, t_ * a_.hidden * (2 + 2));
    permute();
    move_scales(a_.hidden + 2 * i);
    if (op_.moe) bytes(WorkKind::kElementwise, rows_ * (4 + 4));
  }

  void mlp_weight() {
    const int64_t width = op_.moe ? shared() : a_.dense_intermediate;
    if (width > 0) {
      weight(a_.hidden, width);
      weight(2 * width, a_.hidden);
    }
    if (!op_.moe) return;
    grouped_weight(a_.hidden, a_.expert_intermediate);
    grouped_weight(2 * a_.expert_intermediate, a_.hidden);
    // Inputs and gradients came in FP8, along tokens now.
    if (fp8_) bytes(WorkKind::kCast, rows_ * 2 * a_.hidden * (1 + 1));
  }

  void embed() {
    const bool forward = op_.pass == Pass::kForward;
    bytes(WorkKind::kStream, t_ * a_.hidden * (forward ? 2 + 2 : 2 + 8));
  }

  // Head and embedding are BF16. The loss reads FP32 logits and writes their gradients.
  void head() {
    fp8_ = false;
    if (op_.pass == Pass::kForward) {
      product(a_.vocabulary, a_.hidden);
      bytes(WorkKind::kNorm, t_ * a_.hidden * (2 + 2));
      bytes(WorkKind::kStream, t_ * a_.vocabulary * 4);
    } else if (op_.pass == Pass::kInput) {
      product(a_.hidden, a_.vocabulary);
      bytes(WorkKind::kNorm, t_ * a_.hidden * (4 + 2));
      bytes(WorkKind::kStream, t_ * a_.vocabulary * (4 + 2));
    } else {
      weight(a_.vocabulary, a_.hidden);
    }
  }

  void mtp() {
    if (op_.pass == Pass::kForward) {
      product(a_.hidden, 2 * a_.hidden);
      bytes(WorkKind::kNorm, 2 * t_ * a_.hidden * (2 + 2));
      cast(2 * a_.hidden);
      bytes(WorkKind::kStream, t_ * a_.hidden * (2 + 2));
    } else if (op_.pass == Pass::kInput) {
      product(2 * a_.hidden, a_.hidden);
      bytes(WorkKind::kNorm, 2 * t_ * a_.hidden * (4 + 2));
      cast(a_.hidden);
    } else {
      weight(a_.hidden, 2 * a_.hidden);
      bytes(WorkKind::kStream, t_ * a_.hidden * (2 + 8));
    }
  }

  // What goes before an all-to-all's data: where tokens go, gradients cast for their way.
  void before_exchange() {
    if (op_.kind == OpKind::kDispatch && op_.pass == Pass::kForward) {
      bytes(WorkKind::kElementwise, t_ * a_.active_experts * 8);
    }
    if (op_.kind == OpKind::kCombine && op_.pass == Pass::kInput) cast(a_.hidden);
  }

  std::vector<GpuTask> take() { return std::move(tasks_); }

 private:
  int64_t queries() const { return a_.heads * a_.qk_head(); }
  int64_t keys_values() const { return a_.heads * (a_.qk_nope + a_.v_head); }
  int64_t values() const { return a_.heads * a_.v_head; }
  int64_t lora() const { return a_.q_lora.value_or(0) + a_.kv_lora; }
  int64_t shared() const { return a_.shared_experts * a_.expert_intermediate; }
  int64_t gate_bytes() const {
    // The product's input; scores in FP32 through sigmoid, bias, masks, top-k and the loss.
    return t_ * (a_.hidden * 2 + a_.experts * 4 * 12);
  }

  void bytes(WorkKind kind, int64_t count) {
    if (count > 0) tasks_.push_back({.kind = kind, .bytes = Bytes(count)});
  }
  void cast(int64_t width) { cast_rows(t_, width); }
  void cast_rows(int64_t rows, int64_t width) {
    if (fp8_ && rows * width > 0) tasks_.push_back(cast_task(rows * width, 2));
  }

  // Scales of the experts' rows, one per 128 values, into the layout that a product wants.
  void move_scales(int64_t width) {
    if (fp8_) bytes(WorkKind::kCast, rows_ * (width / 128) * (4 + 4));
  }

  // FP8 weights into the layout that a product wants.
  void transpose_weights(int64_t elements) {
    if (fp8_) bytes(WorkKind::kCast, elements * (1 + 1));
  }

  void add_product(Family family, int64_t groups, int64_t m, int64_t n, int64_t k) {
    const Format format = fp8_ ? Format::kFp8 : Format::kBf16;
    if (m > 0) tasks_.push_back(product_task(family, format, groups, m, n, k));
  }
  void product(int64_t n, int64_t k) { add_product(Family::kDense, 1, t_, n, k); }
  void weight(int64_t n, int64_t k) { add_product(Family::kWeight, 1, t_, n, k); }
  // Keys and values of the whole sequence, gathered compressed.
  int64_t context() const { return t_ * context_parallel_; }
  int64_t groups() const { return static_cast<int64_t>(op_.expert_rows.size()); }
  void grouped(int64_t n, int64_t k) { add_product(Family::kGrouped, groups(), rows_, n, k); }
  void grouped_weight(int64_t n, int64_t k) {
    add_product(Family::kGroupedWeight, groups(), rows_, n, k);
  }

  void up_projections() {
    product(queries(), a_.q_lora.value_or(a_.hidden));
    add_product(Family::kDense, 1, context(), keys_values(), a_.kv_lora);
  }

  // widths: per head and pair of positions; moved: elements per head and token.
  void core(int64_t widths, int64_t moved) {
    const auto d = [](int64_t x) { return static_cast<double>(x); };
    const double pairs =
        d(op_.sequences) * d(op_.length) * (d(op_.length) + 1) / 2 / d(context_parallel_);
    tasks_.push_back({.kind = WorkKind::kAttention,
                      .flops = Flops(2 * pairs * d(a_.heads) * d(widths)),
                      .bytes = Bytes(t_ * a_.heads * moved * 2)});
  }

  // Rotations of the queries' part, one in each direction; keys put together from their two parts,
  // and so `copies` times something of that size.
  void rope(int64_t copies) {
    const int64_t turns = copies > 1 ? 2 : 1;
    bytes(WorkKind::kRope, t_ * a_.heads * (turns * a_.qk_rope + copies * a_.qk_nope) * (2 + 2));
  }

  // Rows to experts as they came, and their sum per token in BF16.
  void permute() {
    bytes(WorkKind::kPermute, rows_ * a_.hidden * (fp8_ ? 1 + 1 : 2 + 2));
    bytes(WorkKind::kPermute, rows_ * a_.hidden * 2 + (rows_ > 0 ? arrived_ * a_.hidden * 2 : 0));
  }

  const Architecture& a_;
  const OpShape& op_;
  bool fp8_;
  int64_t context_parallel_;
  int64_t t_;        // tokens of this rank
  int64_t rows_;     // of its experts
  int64_t arrived_;  // tokens that have an expert here
  std::vector<GpuTask> tasks_;
};

template <typename T>
struct Named {
  T value;
  std::string_view name;
};

constexpr std::array kKinds = {
    Named<WorkKind>{WorkKind::kProduct, "product"},
    Named<WorkKind>{WorkKind::kAttention, "attention"},
    Named<WorkKind>{WorkKind::kCast, "cast"},
    Named<WorkKind>{WorkKind::kNorm, "norm"},
    Named<WorkKind>{WorkKind::kRope, "rope"},
    Named<WorkKind>{WorkKind::kActivation, "activation"},
    Named<WorkKind>{WorkKind::kPermute, "permute"},
    Named<WorkKind>{WorkKind::kGate, "gate"},
    Named<WorkKind>{WorkKind::kElementwise, "elementwise"},
    Named<WorkKind>{WorkKind::kStream, "stream"},
    Named<WorkKind>{WorkKind::kData, "data"},
    Named<WorkKind>{WorkKind::kWaiting, "waiting"},
    Named<WorkKind>{WorkKind::kGap, "gap"},
};
constexpr std::array kFamilies = {
    Named<Family>{Family::kDense, "dense"},
    Named<Family>{Family::kGrouped, "grouped"},
    Named<Family>{Family::kWeight, "weight"},
    Named<Family>{Family::kGroupedWeight, "grouped_weight"},
};
constexpr std::array kFormats = {
    Named<Format>{Format::kBf16, "bf16"},
    Named<Format>{Format::kFp8, "fp8"},
};

template <typename Table, typename T>
std::string_view find_name(const Table& table, T value) {
  for (const auto& n : table) {
    if (n.value == value) return n.name;
  }
  return "?";
}
template <typename T, typename Table>
std::optional<T> find_value(const Table& table, std::string_view name) {
  for (const auto& n : table) {
    if (n.name == name) return n.value;
  }
  return std::nullopt;
}

}  // namespace

GpuTask product_task(
    Family family, Format format, int64_t groups, int64_t m, int64_t n, int64_t k) {
  const int64_t element = format == Format::kFp8 ? 1 : 2;
  const bool weights = family == Family::kWeight || family == Family::kGroupedWeight;
  const int64_t moved = weights ? (m * n + m * k) * element + groups * n * k * (4 + 4)
                                : (m * k + groups * n * k) * element + m * n * 2;
  return {
      .kind = WorkKind::kProduct,
      .flops = Flops(2 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k)),
      .bytes = Bytes(moved),
      .family = family,
      .format = format,
      .groups = groups,
      .m = m,
      .n = n,
      .k = k};
}

GpuTask cast_task(int64_t values, int64_t element) {
  return {.kind = WorkKind::kCast, .bytes = Bytes(values * (element + 1))};
}

std::vector<GpuTask> gpu_tasks(const Architecture& a, const OpShape& op, const GpuRecipe& recipe) {
  Tasks tasks(a, op, recipe);
  const auto passes = [&](auto forward, auto input, auto weight) {
    if (op.pass == Pass::kForward) (tasks.*forward)();
    if (op.pass == Pass::kInput) (tasks.*input)();
    if (op.pass == Pass::kWeight) (tasks.*weight)();
  };
  switch (op.kind) {
    case OpKind::kAttn:
      passes(&Tasks::attention_forward, &Tasks::attention_input, &Tasks::attention_weight);
      break;
    case OpKind::kMlp:
      passes(&Tasks::mlp_forward, &Tasks::mlp_input, &Tasks::mlp_weight);
      break;
    case OpKind::kEmbed:
      tasks.embed();
      break;
    case OpKind::kHead:
      tasks.head();
      break;
    case OpKind::kMtp:
      tasks.mtp();
      break;
    case OpKind::kDispatch:
    case OpKind::kCombine:
      tasks.before_exchange();
      break;
    default:
      break;
  }
  return tasks.take();
}

double ideal_seconds(const GpuTask& task, const GpuPeaks& peaks) {
  const bool fp8 = task.kind == WorkKind::kProduct && task.format == Format::kFp8;
  const double rate = (fp8 ? peaks.fp8 : peaks.bf16).value();
  return task.flops.count() / rate + static_cast<double>(task.bytes.count()) / peaks.memory.value();
}

std::string_view name_of(WorkKind kind) {
  return find_name(kKinds, kind);
}
std::string_view name_of(Family family) {
  return find_name(kFamilies, family);
}
std::string_view name_of(Format format) {
  return find_name(kFormats, format);
}
std::optional<WorkKind> work_kind_named(std::string_view name) {
  return find_value<WorkKind>(kKinds, name);
}
std::optional<Family> family_named(std::string_view name) {
  return find_value<Family>(kFamilies, name);
}
std::optional<Format> format_named(std::string_view name) {
  return find_value<Format>(kFormats, name);
}

}  // namespace rehearse
