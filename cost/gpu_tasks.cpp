#include "cost/gpu_tasks.h"

#include <numeric>

namespace rehearse {
namespace {

// Appends tasks for one op; the functions below read as the list of an op's work. Bytes per element
// are written as what is read plus what is written.
class Tasks {
 public:
  Tasks(const Layers& layers, const OpShape& op, const GpuRecipe& recipe)
      : a_(layers.architecture),
        layer_(layers.of(op.moe)),
        op_(op),
        fp8_(recipe.format == Format::kFp8),
        context_parallel_(recipe.context_parallel),
        t_(op.sequences * op.length / recipe.context_parallel),
        rows_(std::accumulate(op.expert_rows.begin(), op.expert_rows.end(), int64_t{0})),
        arrived_(op.exchange ? op.exchange->arrived : t_) {}

  void attention_forward() {
    for (const Linear& l : layer_.projections(Role::kCompress)) product(l);
    expansions();
    const Core& c = layer_.core;
    core(c.qk + c.v, 2 * c.qk + 2 * c.v);
    for (const Linear& l : layer_.projections(Role::kOutput)) product(l);
    bytes(WorkKind::kNorm, t_ * layer_.norm_width() * (2 + 2));
    cast(layer_.norm_width(Part::kPostNorm));
    cast(2 * values());  // for the product, and to keep for backward
    if (op_.moe) cast(a_.hidden);
    rope(1);
    if (op_.moe) bytes(WorkKind::kGate, gate_bytes());
    // The residual, and values made contiguous.
    bytes(WorkKind::kElementwise, t_ * a_.hidden * (4 + 2) + context() * values() * (2 + 2));
  }

  void attention_input() {
    const std::vector<Linear> expand = layer_.projections(Role::kExpand);
    const std::vector<Linear> compress = layer_.projections(Role::kCompress);
    for (const Linear& l : layer_.projections(Role::kOutput)) grad_input(l);
    expansions();  // recomputed
    const Core& c = layer_.core;
    core(3 * c.qk + 2 * c.v, 4 * c.qk + 4 * c.v);
    for (const Linear& l : expand) grad_input(l);
    for (auto l = compress.rbegin(); l != compress.rend(); ++l) grad_input(*l);
    bytes(WorkKind::kNorm, t_ * layer_.norm_width() * (4 + 2));                 // backward
    bytes(WorkKind::kNorm, t_ * layer_.norm_width(Part::kPostNorm) * (2 + 2));  // recomputed
    cast(2 * layer_.norm_width(Part::kPostNorm));
    // What was kept is decoded; gradients of the large tensors are cast for both products.
    int64_t weights = 0;
    for (const Linear& l : layer_.projections()) weights += l.weights();
    int64_t expanded = 2 * values();
    for (const Linear& l : expand) {
      if (l.rows == Rows::kTokens) expanded += 2 * l.out;
    }
    cast(expanded);
    for (const Linear& l : expand) {
      if (l.rows == Rows::kContext) cast_rows(context(), 2 * l.out);
    }
    transpose_weights(weights);
    rope(3);  // again, and backwards: gradients of keys and of values are put together
    if (op_.moe) bytes(WorkKind::kGate, gate_bytes());
    bytes(WorkKind::kElementwise,
          t_ * a_.hidden * (4 + 2) + context() * values() * (2 + 2) +
              t_ * layer_.rope.heads * layer_.rope.width * 2);
  }

  void attention_weight() {
    for (const Role role : {Role::kOutput, Role::kExpand, Role::kCompress}) {
      const std::vector<Linear> list = layer_.projections(role);
      for (auto l = list.rbegin(); l != list.rend(); ++l) weight(*l);
    }
  }

  void mlp_forward() {
    const std::optional<Ffn>& all = layer_.moe() ? layer_.shared : layer_.dense;
    const int64_t i = expert_width();
    if (all) product(all->gate_up);
    if (op_.moe) {
      grouped(layer_.experts->gate_up);
      grouped(layer_.experts->down);
    }
    if (all) product(all->down);
    const int64_t width = all ? all->width : 0;
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
    const std::optional<Ffn>& all = layer_.moe() ? layer_.shared : layer_.dense;
    const int64_t i = expert_width();
    if (all) grad_input(all->down);
    if (op_.moe) {
      grouped_input(layer_.experts->down);
      grouped_input(layer_.experts->gate_up);
    }
    if (all) grad_input(all->gate_up);
    const int64_t width = all ? all->width : 0;
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
    const std::optional<Ffn>& all = layer_.moe() ? layer_.shared : layer_.dense;
    if (all) {
      weight(all->down);
      weight(all->gate_up);
    }
    if (!op_.moe) return;
    grouped_weight(layer_.experts->down);
    grouped_weight(layer_.experts->gate_up);
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
      product({.out = a_.vocabulary, .in = a_.hidden});
      bytes(WorkKind::kNorm, t_ * a_.hidden * (2 + 2));
      bytes(WorkKind::kStream, t_ * a_.vocabulary * 4);
    } else if (op_.pass == Pass::kInput) {
      grad_input({.out = a_.vocabulary, .in = a_.hidden});
      bytes(WorkKind::kNorm, t_ * a_.hidden * (4 + 2));
      bytes(WorkKind::kStream, t_ * a_.vocabulary * (4 + 2));
    } else {
      weight({.out = a_.vocabulary, .in = a_.hidden});
    }
  }

  void mtp() {
    if (op_.pass == Pass::kForward) {
      product({.out = a_.hidden, .in = 2 * a_.hidden});
      bytes(WorkKind::kNorm, 2 * t_ * a_.hidden * (2 + 2));
      cast(2 * a_.hidden);
      bytes(WorkKind::kStream, t_ * a_.hidden * (2 + 2));
    } else if (op_.pass == Pass::kInput) {
      grad_input({.out = a_.hidden, .in = 2 * a_.hidden});
      bytes(WorkKind::kNorm, 2 * t_ * a_.hidden * (4 + 2));
      cast(a_.hidden);
    } else {
      weight({.out = a_.hidden, .in = 2 * a_.hidden});
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
  int64_t values() const { return layer_.core.heads * layer_.core.v; }
  // The memory-bound work on rows of experts is counted in dense layers too, as if they had some:
  // 1% of DeepSeek-V3's step, on the stages that hold its three dense layers.
  int64_t expert_width() const { return a_.expert_intermediate; }
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
  int64_t rows_of(const Linear& l) const { return l.rows == Rows::kContext ? context() : t_; }
  void product(const Linear& l) { add_product(Family::kDense, 1, rows_of(l), l.out, l.in); }
  void grad_input(const Linear& l) { add_product(Family::kDense, 1, rows_of(l), l.in, l.out); }
  void weight(const Linear& l) { add_product(Family::kWeight, 1, rows_of(l), l.out, l.in); }
  // Keys and values of the whole sequence, gathered compressed.
  int64_t context() const { return t_ * context_parallel_; }
  int64_t groups() const { return static_cast<int64_t>(op_.expert_rows.size()); }
  void grouped(const Linear& l) { add_product(Family::kGrouped, groups(), rows_, l.out, l.in); }
  void grouped_input(const Linear& l) {
    add_product(Family::kGrouped, groups(), rows_, l.in, l.out);
  }
  void grouped_weight(const Linear& l) {
    add_product(Family::kGroupedWeight, groups(), rows_, l.out, l.in);
  }

  void expansions() {
    for (const Linear& l : layer_.projections(Role::kExpand)) product(l);
  }

  // widths: per head and pair of positions; moved: elements per head and token.
  void core(int64_t widths, int64_t moved) {
    const auto d = [](int64_t x) { return static_cast<double>(x); };
    const double pairs =
        d(op_.sequences) * d(op_.length) * (d(op_.length) + 1) / 2 / d(context_parallel_);
    tasks_.push_back({.kind = WorkKind::kAttention,
                      .flops = Flops(2 * pairs * d(layer_.core.heads) * d(widths)),
                      .bytes = Bytes(t_ * layer_.core.heads * moved * 2)});
  }

  // Rotations of the queries' part, one in each direction; keys put together from their two parts,
  // and so `copies` times something of that size.
  void rope(int64_t copies) {
    const int64_t turns = copies > 1 ? 2 : 1;
    const Rope& r = layer_.rope;
    const int64_t unrotated = layer_.core.qk - r.width;
    bytes(WorkKind::kRope, t_ * r.heads * (turns * r.width + copies * unrotated) * (2 + 2));
  }

  // Rows to experts as they came, and their sum per token in BF16.
  void permute() {
    bytes(WorkKind::kPermute, rows_ * a_.hidden * (fp8_ ? 1 + 1 : 2 + 2));
    bytes(WorkKind::kPermute, rows_ * a_.hidden * 2 + (rows_ > 0 ? arrived_ * a_.hidden * 2 : 0));
  }

  const Architecture& a_;
  const Layer& layer_;
  const OpShape& op_;
  bool fp8_;
  int64_t context_parallel_;
  int64_t t_;        // tokens of this rank
  int64_t rows_;     // of its experts
  int64_t arrived_;  // tokens that have an expert here
  std::vector<GpuTask> tasks_;
};

}  // namespace

std::vector<GpuTask> gpu_tasks(const Layers& layers, const OpShape& op, const GpuRecipe& recipe) {
  Tasks tasks(layers, op, recipe);
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

double kept_bytes(const Layer& layer, int64_t hidden, const PrecisionBytes& precision) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  double bytes = 2 * 2 * d(hidden);  // both residuals
  for (const Linear& l : layer.projections(Role::kCompress)) bytes += 2 * d(l.out);
  for (const Linear& l : layer.projections(Role::kExpand)) {
    if (l.part == Part::kQuery) bytes += 2 * d(l.in);  // not compressed: the norm's output
  }
  // The core's output and its log-sums.
  bytes +=
      precision.kept_output_input * d(layer.core.heads * layer.core.v) + 4 * d(layer.core.heads);
  const auto of_ffn = [&](const Ffn& f) { return precision.kept_input * d(2 * f.width); };
  if (layer.dense) bytes += of_ffn(*layer.dense);
  if (layer.shared) bytes += of_ffn(*layer.shared);
  for (const Step& s : layer.attention) {
    const auto* gate = std::get_if<Gate>(&s);
    if (gate == nullptr) continue;
    bytes += 4 * d(gate->experts) + 8 * d(gate->active);
    bytes += d(gate->active) * (precision.kept_input * d(hidden) + of_ffn(*layer.experts));
  }
  return bytes;
}

}  // namespace rehearse
