#include "cost/gpu_tasks.h"

#include <cmath>
#include <numeric>

#include "base/integers.h"

namespace rehearse {
namespace {

// Appends tasks for one op; the functions below read as the list of an op's work. Bytes per element
// are written as what is read plus what is written.
class Tasks {
 public:
  Tasks(const Layers& layers, const OpShape& op, const GpuRecipe& recipe)
      : a_(layers.architecture),
        layer_(layers.of(op.moe, op.windowed)),
        op_(op),
        recipe_(recipe),
        fp8_(recipe.format == Format::kFp8),
        gathered_(op.sequences * op.length / recipe.context_parallel),
        t_(recipe.sequence_parallel ? gathered_ / recipe.tensor_parallel : gathered_),
        sharing_(layer_.experts ? layers.architecture.expert_intermediate / layer_.experts->width
                                : 1),
        rows_(op.moe ? sharing_ *
                           std::accumulate(op.expert_rows.begin(), op.expert_rows.end(), int64_t{0})
                     : 0),
        arrived_(sharing_ * (op.exchange ? op.exchange->arrived : t_)) {}

  void attention_forward() {
    if (into_core()) {
      for (const Linear& l : layer_.projections(Role::kEnter)) product(l);
      expansions();
    }
    if (from_core()) {
      core_forward();
      for (const Linear& l : layer_.projections(Role::kOutput)) product(l);
    }
    if (into_core() && from_core()) {
      norms(layer_.norm_width(), layer_.head_norm_width(), 2 + 2);
    } else {
      into_core() ? norms(layer_.norm_width(Part::kPostNorm), layer_.head_norm_width(), 2 + 2)
                  : norms(a_.hidden, 0, 2 + 2);
    }
    if (into_core()) cast(layer_.norm_width(Part::kPostNorm));
    if (from_core()) cast_rows(gathered_, 2 * values());  // for the product, and for backward
    if (from_core() && op_.moe) cast(a_.hidden);
    if (into_core()) rope(1);
    if (!from_core()) return;
    if (op_.moe) bytes(WorkKind::kGate, gate_bytes());
    // The residual, and values made contiguous.
    bytes(WorkKind::kElementwise, t_ * a_.hidden * (4 + 2) + contiguous_values());
    drop(t_ * a_.hidden);
  }

  void attention_input() {
    const Recompute& again = recipe_.recompute;
    const std::vector<Linear> expand = layer_.projections(Role::kExpand);
    const std::vector<Linear> enter = layer_.projections(Role::kEnter);
    if (from_core()) {
      for (const Linear& l : layer_.projections(Role::kOutput)) grad_input(l);
      if (again.up_projections) expansions();
      if (again.core) core_forward();
      core_backward();
    }
    if (!into_core()) return attention_input_from_core();
    for (const Linear& l : expand) grad_input(l);
    for (auto l = enter.rbegin(); l != enter.rend(); ++l) grad_input(*l);
    norms(layer_.norm_width(), layer_.head_norm_width(), 4 + 2);
    if (again.norms) norms(layer_.norm_width(Part::kPostNorm), layer_.head_norm_width(), 2 + 2);
    cast(2 * layer_.norm_width(Part::kPostNorm));
    // What was kept is decoded; gradients of the large tensors are cast for both products.
    int64_t weights = 0;
    for (const Linear& l : layer_.projections()) weights += l.weights();
    int64_t expanded = 2 * values();
    for (const Linear& l : expand) {
      if (l.rows == Rows::kGathered) expanded += 2 * l.out;
    }
    if (!from_core()) expanded -= 2 * values();  // in attn
    cast_rows(gathered_, expanded);
    for (const Linear& l : expand) {
      if (l.rows == Rows::kContext) cast_rows(context(), 2 * l.out);
    }
    transpose_weights(weights);
    rope(3);  // again, and backwards: gradients of keys and of values are put together
    if (from_core() && op_.moe) bytes(WorkKind::kGate, gate_bytes());
    bytes(WorkKind::kElementwise,
          (from_core() ? t_ * a_.hidden * (4 + 2) : 0) + contiguous_values() + split_gradients());
    if (from_core()) drop(t_ * a_.hidden);
  }
  void attention_input_from_core() {
    cast_rows(gathered_, 2 * values());
    if (op_.moe) bytes(WorkKind::kGate, gate_bytes());
    bytes(WorkKind::kElementwise, t_ * a_.hidden * (4 + 2));
    drop(t_ * a_.hidden);
  }

  void attention_weight() {
    for (const Role role : {Role::kOutput, Role::kExpand, Role::kEnter}) {
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
    // Reads one input or two in BF16.
    bytes(WorkKind::kActivation, (gathered_ * width + rows_ * i) * (2 * inputs() + (fp8_ ? 1 : 2)));
    cast_rows(gathered_, inputs() * width);  // the activation's inputs, to keep for backward
    cast_rows(rows_, inputs() * i);
    if (op_.moe) transpose_weights(groups() * matrices() * i * a_.hidden);
    permute();
    move_scales(a_.hidden + i);
    // The routing weights, or a dense layer's residual.
    bytes(WorkKind::kElementwise, op_.moe ? rows_ * (4 + 4) : t_ * a_.hidden * (4 + 2));
    drop(t_ * a_.hidden);
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
    // The activation again and its gradients: reads its inputs and the output's gradient, writes
    // the output, unless it was kept, and its inputs' gradients; then the routing weights'
    // gradients.
    const bool again = recipe_.recompute.activations;
    bytes(
        WorkKind::kActivation,
        (gathered_ * width + rows_ * i) * (2 * (inputs() + 1) + 2 * (inputs() + (again ? 1 : 0))));
    // What was kept decoded, gradients cast for the next product and, transposed, for the weights'.
    const int64_t decoded = 2 * inputs() + inputs() + 1;
    cast_elements(t_ * 2 * a_.hidden + gathered_ * decoded * width);
    cast_rows(rows_, decoded * i);
    transpose_weights(matrices() * width * a_.hidden);
    if (recipe_.recompute.norms) bytes(WorkKind::kNorm, t_ * a_.hidden * (2 + 2));
    permute();
    move_scales(a_.hidden + inputs() * i);
    if (op_.moe) bytes(WorkKind::kElementwise, rows_ * (4 + 4));
    drop(t_ * a_.hidden);
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
    const int64_t tables = a_.positions > 0 ? 2 : 1;
    // Of a table cut over ranks each writes all tokens' rows, its own ones and zeros.
    bytes(WorkKind::kStream, gathered_ * a_.hidden * tables * (forward ? 2 + 2 : 2 + 8));
    drop(t_ * a_.hidden);
  }

  // Head and embedding are BF16. The loss reads FP32 logits and writes their gradients.
  void head() {
    fp8_ = false;
    if (op_.pass == Pass::kForward) {
      product(vocabulary());
      bytes(WorkKind::kNorm, t_ * a_.hidden * (2 + 2));
      bytes(WorkKind::kStream, gathered_ * vocabulary().out * 4);
      if (a_.normalized_head) bytes(WorkKind::kStream, vocabulary().weights() * (2 + 2));
    } else if (op_.pass == Pass::kInput) {
      grad_input(vocabulary());
      bytes(WorkKind::kNorm, t_ * a_.hidden * (4 + 2));
      bytes(WorkKind::kStream, gathered_ * vocabulary().out * (4 + 2));
    } else {
      weight(vocabulary());
    }
  }

  void mtp() {
    if (op_.pass == Pass::kForward) {
      product(mtp_projection());
      bytes(WorkKind::kNorm, 2 * t_ * a_.hidden * (2 + 2));
      cast(2 * a_.hidden);
      bytes(WorkKind::kStream, t_ * a_.hidden * (2 + 2));
    } else if (op_.pass == Pass::kInput) {
      grad_input(mtp_projection());
      bytes(WorkKind::kNorm, 2 * t_ * a_.hidden * (4 + 2));
      cast(a_.hidden);
    } else {
      weight(mtp_projection());
      bytes(WorkKind::kStream, t_ * a_.hidden * (2 + 8));
    }
  }

  // The two parts of attention, where they are ops of their own.
  bool into_core() const { return !recipe_.ring || op_.kind == OpKind::kQkv; }
  bool from_core() const { return !recipe_.ring || op_.kind == OpKind::kAttn; }

  // What goes before an all-to-all's data: where tokens go, gradients cast for their way.
  void before_exchange() {
    if (op_.kind == OpKind::kDispatch && op_.pass == Pass::kForward) {
      bytes(WorkKind::kElementwise, t_ * a_.active_experts * 8);
    }
    if (op_.kind == OpKind::kCombine && op_.pass == Pass::kInput) cast(a_.hidden);
    if (!recipe_.rows_travel) return;
    // Of dispatch forward and combine backward, a token's row once for each of its experts; of the
    // other two their sum, in front of the next op.
    const bool out = (op_.kind == OpKind::kDispatch) == (op_.pass == Pass::kForward);
    const int64_t rows = t_ * a_.active_experts;
    bytes(WorkKind::kPermute, out ? rows * a_.hidden * (2 + 2) : (rows + t_) * a_.hidden * 2);
  }

  std::vector<GpuTask> take() { return std::move(tasks_); }

 private:
  int64_t values() const { return layer_.core.heads * layer_.core.v; }
  int64_t matrices() const { return a_.mlp == MlpKind::kGated ? 3 : 2; }
  int64_t inputs() const { return matrices() - 1; }  // of the activation
  // Each tensor-parallel rank has its part of the vocabulary, and of M's columns.
  Linear vocabulary() const {
    return {.out = ceil_div(a_.vocabulary, recipe_.tensor_parallel),
            .in = a_.hidden,
            .rows = Rows::kGathered};
  }
  Linear mtp_projection() const {
    return {
        .out = a_.hidden / recipe_.tensor_parallel, .in = 2 * a_.hidden, .rows = Rows::kGathered};
  }
  int64_t expert_width() const { return layer_.experts ? layer_.experts->width : 0; }
  int64_t gate_bytes() const {
    // The product's input; scores in FP32 through sigmoid, bias, masks, top-k and the loss.
    return t_ * (a_.hidden * 2 + a_.experts * 4 * 12);
  }

  void bytes(WorkKind kind, int64_t count) {
    if (count > 0) tasks_.push_back({.kind = kind, .bytes = Bytes(count)});
  }
  // moved: bytes of an element, read and written.
  void norms(int64_t width, int64_t of_heads, int64_t moved) {
    bytes(WorkKind::kNorm, (t_ * width + gathered_ * of_heads) * moved);
  }
  // Elements are dropped by a mask, a byte each, written or read; the rest is in another kernel.
  void drop(int64_t elements) {
    if (a_.dropout > 0) bytes(WorkKind::kElementwise, elements);
  }
  void cast(int64_t width) { cast_rows(t_, width); }
  void cast_rows(int64_t rows, int64_t width) { cast_elements(rows * width); }
  void cast_elements(int64_t count) {
    if (fp8_ && count > 0) tasks_.push_back(cast_task(count, 2));
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
  int64_t rows_of(const Linear& l) const {
    if (l.rows == Rows::kContext) return context();
    return l.rows == Rows::kGathered ? gathered_ : t_;
  }
  void product(const Linear& l) { add_product(Family::kDense, 1, rows_of(l), l.out, l.in); }
  void grad_input(const Linear& l) { add_product(Family::kDense, 1, rows_of(l), l.in, l.out); }
  void weight(const Linear& l) {
    add_product(Family::kWeight, 1, rows_of(l), l.out, l.in);
    if (l.bias) bytes(WorkKind::kElementwise, rows_of(l) * l.out * 2);  // its gradient: a sum
  }
  // Keys and values of the whole sequence, gathered compressed.
  int64_t context() const { return gathered_ * recipe_.context_parallel; }
  int64_t groups() const { return static_cast<int64_t>(op_.expert_rows.size()); }
  void grouped(const Linear& l) { add_product(Family::kGrouped, groups(), rows_, l.out, l.in); }
  void grouped_input(const Linear& l) {
    add_product(Family::kGrouped, groups(), rows_, l.in, l.out);
  }
  void grouped_weight(const Linear& l) {
    add_product(Family::kGroupedWeight, groups(), rows_, l.out, l.in);
    if (l.bias) bytes(WorkKind::kElementwise, rows_ * l.out * 2);
  }

  void expansions() {
    for (const Linear& l : layer_.projections(Role::kExpand)) product(l);
  }

  // Keys and values are the queries' in number where they are few.
  void core_forward() {
    const Core& c = layer_.core;
    core(c.qk + c.v, c.heads * (c.qk + c.v) + c.kv_heads * (c.qk + c.v), false);
  }
  void core_backward() {
    const Core& c = layer_.core;
    core(3 * c.qk + 2 * c.v, 2 * (c.heads * (c.qk + c.v) + c.kv_heads * (c.qk + c.v)), true);
  }
  // widths: per head and pair of positions; moved: elements per token.
  void core(int64_t widths, int64_t moved, bool backward) {
    const auto d = [](int64_t x) { return static_cast<double>(x); };
    const bool fused = recipe_.core == CoreKind::kFused;
    const Core& c = layer_.core;
    const double pairs = d(op_.sequences) * d(op_.length) *
                         (fused ? c.keys(op_.length, true) : d(op_.length)) /
                         d(recipe_.context_parallel);
    // Unfused backward has the scores from forward.
    const int64_t again = backward && !fused ? c.qk : 0;
    tasks_.push_back({.kind = WorkKind::kAttention,
                      .flops = Flops(2 * pairs * d(c.heads) * d(widths - again)),
                      .bytes = Bytes(gathered_ * moved * 2)});
    if (fused) {
      tasks_.back().core = {.batch = op_.sequences,
                            .sequence = op_.length,
                            .heads = c.heads,
                            .kv_heads = c.kv_heads,
                            .qk = c.qk,
                            .v = c.v,
                            .window = c.window.value_or(0)};
      tasks_.back().parts = recipe_.context_parallel;
      return;
    }
    // Scores written and read by the softmax, its output written and read; backward reads them and
    // moves gradients likewise. Dropout reads and writes once more, and a mask.
    const int64_t drops = a_.dropout > 0 ? 2 + 2 + 1 : 0;
    const double moves = d(2 + 2 + 2 + 2 + drops + (backward ? 2 : 0));
    bytes(WorkKind::kElementwise, std::llround(pairs * d(c.heads) * moves));
  }

  // Rotations in each direction. MLA's keys are put together from their two parts, and so `copies`
  // times something of the queries' size.
  void rope(int64_t copies) {
    const int64_t turns = copies > 1 ? 2 : 1;
    const Rope& r = layer_.rope;
    const bool latent = a_.attention == AttentionKind::kLatent;
    if (r.width == 0) return;
    const int64_t unrotated = latent ? layer_.core.qk - r.width : 0;
    const int64_t heads = latent ? r.heads : r.heads + layer_.core.kv_heads;
    bytes(WorkKind::kRope, gathered_ * heads * (turns * r.width + copies * unrotated) * (2 + 2));
  }
  // Of MLA: values stand between keys as they come out of their product; in backward the gradient
  // of the rotated part is taken apart.
  int64_t contiguous_values() const {
    return a_.attention == AttentionKind::kLatent ? context() * values() * (2 + 2) : 0;
  }
  int64_t split_gradients() const {
    return a_.attention == AttentionKind::kLatent
               ? gathered_ * layer_.rope.heads * layer_.rope.width * 2
               : 0;
  }

  // Rows to experts as they came, and their sum per token in BF16.
  void permute() {
    bytes(WorkKind::kPermute, rows_ * a_.hidden * (fp8_ ? 1 + 1 : 2 + 2));
    if (recipe_.rows_travel) {
      bytes(WorkKind::kPermute, rows_ * a_.hidden * (2 + 2));
      return;
    }
    bytes(WorkKind::kPermute, rows_ * a_.hidden * 2 + (rows_ > 0 ? arrived_ * a_.hidden * 2 : 0));
  }

  const Architecture& a_;
  const Layer& layer_;
  const OpShape& op_;
  const GpuRecipe& recipe_;
  bool fp8_;
  int64_t gathered_;  // tokens of all tensor-parallel ranks
  int64_t t_;         // of this one
  int64_t sharing_;   // ranks that share an expert's matrices: each has the rows of all of them
  int64_t rows_;      // of its experts
  int64_t arrived_;   // tokens that have an expert here
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
    case OpKind::kQkv:
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

KeptBytes kept_bytes(const Layers& layers,
                     bool moe,
                     bool windowed,
                     int64_t length,
                     const PrecisionBytes& precision,
                     const GpuRecipe& recipe) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  const Architecture& a = layers.architecture;
  const Layer& layer = layers.of(moe, windowed);
  const Recompute& again = recipe.recompute;
  const double hidden = d(a.hidden);
  KeptBytes k;
  if (again.layer) return {.own = 2 * hidden};  // its input
  const double norm_output = again.norms ? 0 : precision.kept_input * hidden;
  k.own = 2 * 2 * hidden + 2 * norm_output;  // both residuals; what the norms make of them
  if (!again.norms) k.gathered += precision.kept_input * d(layer.head_norm_width());
  for (const Linear& l : layer.projections(Role::kEnter)) {
    (l.rows == Rows::kTokens ? k.own : k.gathered) += 2 * d(l.out);
  }
  for (const Linear& l : layer.projections(Role::kExpand)) {
    // Not compressed: the norm's output.
    if (l.part == Part::kQuery && again.norms) k.own += 2 * d(l.in);
    const bool context = l.rows == Rows::kContext;
    if (!again.up_projections) {
      k.gathered += 2 * d(l.out) * (context ? d(recipe.context_parallel) : 1);
    }
  }
  // The core's output, and log-sums or scores: the softmax's output, and behind dropout that again
  // with a mask.
  const Core& c = layer.core;
  k.gathered += precision.kept_output_input * d(c.heads * c.v);
  if (recipe.core == CoreKind::kFused) {
    k.gathered += 4 * d(c.heads);
  } else if (!again.core) {
    k.gathered += d(c.heads) * d(length) * (a.dropout > 0 ? 2 + 2 + 1 : 2);
  }
  if (a.dropout > 0) k.own += 2 * hidden;  // masks behind attention and behind the FFN
  const auto of_ffn = [&](const Ffn& f) {
    const double inputs = precision.kept_input * d(f.gate_up.out);
    return inputs + (again.activations ? 0 : precision.kept_input * d(f.width));
  };
  if (layer.dense) k.gathered += of_ffn(*layer.dense);
  if (layer.shared) k.gathered += of_ffn(*layer.shared);
  if (!layer.experts) return k;
  k.own += 4 * d(a.experts) + 8 * d(a.active_experts);
  // Ranks that share an expert have all its rows, each its part of the width.
  const double etp = d(a.expert_intermediate) / d(layer.experts->width);
  k.rows = d(a.active_experts) * etp * (precision.kept_input * hidden + of_ffn(*layer.experts));
  k.own += k.rows;
  return k;
}

KeptBytes passing_bytes(const Layers& layers, bool moe, bool windowed) {
  constexpr double kBf16 = 2;
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  const Architecture& a = layers.architecture;
  const Layer& layer = layers.of(moe, windowed);
  const auto of_ffn = [&](const Ffn& f) {
    return kBf16 * d(f.gate_up.out + f.width);  // of both products' inputs to the activation, of it
  };
  double attention = kBf16 * d(layer.core.heads * layer.core.v);
  for (const Linear& l : layer.projections()) {
    if (l.role != Role::kOutput) attention += kBf16 * d(l.out);
  }
  double gathered = 0;
  if (layer.dense) gathered += of_ffn(*layer.dense);
  if (layer.shared) gathered += of_ffn(*layer.shared);
  KeptBytes k;
  if (layer.experts) {
    const double etp = d(a.expert_intermediate) / d(layer.experts->width);
    // A row's own gradient comes back too.
    k.rows = d(a.active_experts) * etp * (of_ffn(*layer.experts) + kBf16 * d(a.hidden));
  }
  k.own = k.rows + kBf16 * d(a.hidden);
  k.gathered = std::max(gathered, attention);
  return k;
}

}  // namespace rehearse
