#include "cost/layer.h"

#include <algorithm>
#include <cmath>

#include "base/integers.h"
#include "base/names.h"

namespace rehearse {
namespace {

constexpr NameTable kPartNames{std::to_array<Named<Part>>({
    {Part::kInputNorm, "input_layernorm"},
    {Part::kQueryDown, "self_attn.q_a_proj"},
    {Part::kQueryNorm, "self_attn.q_a_layernorm"},
    {Part::kQueryUp, "self_attn.q_b_proj"},
    {Part::kQuery, "self_attn.q_proj"},
    {Part::kQkv, "self_attn.qkv_proj"},
    {Part::kQueryHeadNorm, "self_attn.q_norm"},
    {Part::kKeyHeadNorm, "self_attn.k_norm"},
    {Part::kKeyValueDown, "self_attn.kv_a_proj_with_mqa"},
    {Part::kKeyValueNorm, "self_attn.kv_a_layernorm"},
    {Part::kKeyValueUp, "self_attn.kv_b_proj"},
    {Part::kOutput, "self_attn.o_proj"},
    {Part::kPostNorm, "post_attention_layernorm"},
    {Part::kRouter, "mlp.gate"},
    {Part::kDenseGateUp, "mlp.gate_up_proj"},
    {Part::kDenseDown, "mlp.down_proj"},
    {Part::kSharedGateUp, "mlp.shared_experts.gate_up_proj"},
    {Part::kSharedDown, "mlp.shared_experts.down_proj"},
    {Part::kExpertGateUp, "mlp.experts.gate_up_proj"},
    {Part::kExpertDown, "mlp.experts.down_proj"},
})};
static_assert(kPartNames.complete());

Ffn ffn(const Architecture& a, Part gate_up, Part down, int64_t width, Rows rows) {
  const bool gated = a.mlp == MlpKind::kGated;
  return {.gate_up = {.part = gate_up,
                      .out = (gated ? 2 : 1) * width,
                      .in = a.hidden,
                      .rows = rows,
                      .bias = a.mlp_bias},
          .down = {.part = down, .out = a.hidden, .in = width, .rows = rows, .bias = a.mlp_bias},
          .width = width,
          .gated = gated};
}

// Up to the core's inputs.
void add_latent(std::vector<Step>& steps, const Architecture& a, int64_t heads) {
  if (a.q_lora) {
    steps.push_back(Linear{Part::kQueryDown, *a.q_lora, a.hidden, Rows::kTokens, Role::kEnter});
    steps.push_back(Norm{Part::kQueryNorm, *a.q_lora});
  }
  steps.push_back(Linear{a.q_lora ? Part::kQueryUp : Part::kQuery,
                         heads * a.qk_head(),
                         a.q_lora.value_or(a.hidden),
                         Rows::kGathered,
                         Role::kExpand});
  steps.push_back(
      Linear{Part::kKeyValueDown, a.kv_lora + a.qk_rope, a.hidden, Rows::kTokens, Role::kEnter});
  steps.push_back(Norm{Part::kKeyValueNorm, a.kv_lora});
  steps.push_back(Linear{
      Part::kKeyValueUp, heads * (a.qk_nope + a.v_head), a.kv_lora, Rows::kContext, Role::kExpand});
  steps.push_back(Rope{heads, a.qk_rope});
  steps.push_back(Rope{1, a.qk_rope});
}

void add_grouped(std::vector<Step>& steps, const Architecture& a, int64_t heads, int64_t kv_heads) {
  steps.push_back(Linear{Part::kQkv,
                         heads * a.qk_head() + kv_heads * (a.qk_head() + a.v_head),
                         a.hidden,
                         Rows::kGathered,
                         Role::kEnter,
                         a.qkv_bias});
  if (a.head_norm == HeadNorm::kPerHead) {
    steps.push_back(Norm{Part::kQueryHeadNorm, a.qk_head(), a.norm, heads});
    steps.push_back(Norm{Part::kKeyHeadNorm, a.qk_head(), a.norm, kv_heads});
  } else if (a.head_norm == HeadNorm::kWhole) {
    steps.push_back(Norm{Part::kQueryHeadNorm, heads * a.qk_head(), a.norm, 1});
    steps.push_back(Norm{Part::kKeyHeadNorm, kv_heads * a.qk_head(), a.norm, 1});
  }
  if (a.qk_rope > 0) {
    steps.push_back(Rope{heads, a.qk_rope});
    steps.push_back(Rope{kv_heads, a.qk_rope});
  }
}

Layer make_layer(const Architecture& a, bool moe, bool windowed, const Shards& shards) {
  const int64_t heads = a.heads / shards.tp;
  const bool latent = a.attention == AttentionKind::kLatent;
  const int64_t kv_heads = latent ? heads : a.kv_heads / shards.tp;
  Layer layer{.core = {.heads = heads,
                       .qk = a.qk_head(),
                       .v = a.v_head,
                       .kv_heads = kv_heads,
                       .window = windowed ? a.window : std::nullopt},
              .rope = {.heads = heads, .width = a.qk_rope},
              .sinks = a.sinks ? heads : 0};
  std::vector<Step>& steps = layer.attention;
  steps.push_back(Norm{Part::kInputNorm, a.hidden, a.norm});
  if (latent) {
    add_latent(steps, a, heads);
    layer.context_width = a.kv_lora + a.qk_rope;
    // Queries that are not compressed follow from the whole input.
    layer.tensor_width = a.q_lora.value_or(a.hidden) + a.kv_lora + a.qk_rope;
  } else {
    add_grouped(steps, a, heads, kv_heads);
    layer.context_width = kv_heads * (a.qk_head() + a.v_head);
    layer.tensor_width = a.hidden;
  }
  steps.push_back(layer.core);
  steps.push_back(Linear{
      Part::kOutput, a.hidden, heads * a.v_head, Rows::kGathered, Role::kOutput, a.output_bias});
  steps.push_back(Residual{a.hidden});
  steps.push_back(Norm{Part::kPostNorm, a.hidden, a.norm});
  if (!moe) {
    layer.dense = ffn(
        a, Part::kDenseGateUp, Part::kDenseDown, a.dense_intermediate / shards.tp, Rows::kGathered);
    return layer;
  }
  steps.push_back(
      Linear{Part::kRouter, a.experts, a.hidden, Rows::kTokens, Role::kOther, a.router_bias});
  steps.push_back(Gate{a.experts, a.active_experts});
  if (a.shared_experts > 0) {
    layer.shared = ffn(a,
                       Part::kSharedGateUp,
                       Part::kSharedDown,
                       a.shared_experts * a.expert_intermediate / shards.tp,
                       Rows::kGathered);
  }
  layer.experts = ffn(a,
                      Part::kExpertGateUp,
                      Part::kExpertDown,
                      a.expert_intermediate / shards.etp,
                      Rows::kExperts);
  return layer;
}

int64_t parameters_with(const Architecture& a, int64_t routed_experts) {
  const ParameterCounts p = parameter_counts(a);
  const int64_t dense = a.dense_layers();
  return a.layers * p.attention + dense * p.dense_mlp +
         (a.layers - dense) * (p.gate + p.shared + routed_experts * p.expert) + p.embedding +
         p.head;
}

}  // namespace

std::string_view name_of(Part part) {
  return kPartNames[part];
}

std::string expert_name(Part part, int64_t expert) {
  constexpr std::string_view kFolder = "mlp.experts.";
  const std::string_view name = name_of(part);
  CHECK(name.starts_with(kFolder)) << name << " is not of experts";
  return std::string(kFolder) + std::to_string(expert) + "." +
         std::string(name.substr(kFolder.size()));
}

std::vector<Linear> Layer::projections() const {
  std::vector<Linear> list;
  for (const Step& s : attention) {
    const auto* linear = std::get_if<Linear>(&s);
    if (linear != nullptr && linear->role != Role::kOther) list.push_back(*linear);
  }
  return list;
}

std::vector<Linear> Layer::projections(Role role) const {
  std::vector<Linear> list = projections();
  std::erase_if(list, [&](const Linear& l) { return l.role != role; });
  return list;
}

int64_t Layer::norm_width(std::optional<Part> but) const {
  int64_t sum = 0;
  for (const Step& s : attention) {
    const auto* norm = std::get_if<Norm>(&s);
    if (norm != nullptr && norm->heads == 0 && norm->part != but) sum += norm->width;
  }
  return sum;
}

int64_t Layer::head_norm_width() const {
  int64_t sum = 0;
  for (const Step& s : attention) {
    const auto* norm = std::get_if<Norm>(&s);
    if (norm != nullptr && norm->heads > 0) sum += norm->elements();
  }
  return sum;
}

int64_t Layer::attention_parameters() const {
  int64_t sum = sinks;
  for (const Step& s : attention) {
    if (const auto* norm = std::get_if<Norm>(&s)) sum += norm->parameters();
  }
  for (const Linear& l : projections()) sum += l.parameters();
  return sum;
}

int64_t Layer::router_parameters() const {
  for (const Step& s : attention) {
    const auto* linear = std::get_if<Linear>(&s);
    if (linear != nullptr && linear->part == Part::kRouter) return linear->parameters();
  }
  return 0;
}

double Core::keys(int64_t length, bool causal) const {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  const int64_t seen = std::min(window.value_or(length), length);
  if (!causal) return d(seen);
  // The first `seen` queries see 1, 2, ..., all others `seen`.
  return d(seen) - d(seen) * (d(seen) - 1) / 2 / d(length);
}

Layers::Layers(const Architecture& a, const Shards& shards) : architecture(a) {
  for (const bool windowed : {false, true}) {
    for (const bool moe : {false, true}) {
      kinds.push_back(make_layer(a, moe && a.experts > 0, windowed, shards));
    }
  }
}

ParameterCounts parameter_counts(const Architecture& a, const Shards& shards) {
  const Layers layers(a, shards);
  const Layer& dense = layers.of(false);
  const Layer& moe = layers.of(true);
  const int64_t norm = Norm{.width = a.hidden, .kind = a.norm}.parameters();
  const int64_t vocabulary = ceil_div(a.vocabulary, shards.tp);
  ParameterCounts p;
  p.attention = dense.attention_parameters();
  p.dense_mlp = dense.dense->parameters();
  p.gate = moe.router_parameters();
  p.expert = moe.experts ? moe.experts->parameters() : 0;
  p.shared = moe.shared ? moe.shared->parameters() : 0;
  p.embedding = (vocabulary + a.positions) * a.hidden;
  p.head = (a.tied_embeddings ? 0 : vocabulary * a.hidden) + norm;
  p.mtp_projection = 2 * a.hidden * a.hidden / shards.tp + 3 * norm;
  return p;
}

int64_t mtp_parameters(const Architecture& a) {
  const ParameterCounts p = parameter_counts(a);
  const int64_t mlp = a.experts > 0 ? p.gate + p.shared + a.experts * p.expert : p.dense_mlp;
  return a.mtp_depth * (p.mtp_projection + p.attention + mlp);
}

int64_t total_parameters(const Architecture& a) {
  return parameters_with(a, a.experts);
}
int64_t active_parameters(const Architecture& a) {
  return parameters_with(a, a.active_experts);
}

namespace {

int64_t weights(const std::optional<Ffn>& f) {
  return f ? f->gate_up.weights() + f->down.weights() : 0;
}

Flops forward_flops(const Architecture& a, const Layer& layer, int64_t length, bool causal) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  double products = 0;
  for (const Step& s : layer.attention) {
    if (const auto* linear = std::get_if<Linear>(&s)) products += d(linear->weights());
  }
  products += d(weights(layer.dense)) + d(weights(layer.shared)) +
              d(a.active_experts) * d(weights(layer.experts));
  const double keys = layer.core.keys(length, causal);
  return Flops(2 * products + 2 * keys * d(layer.core.heads) * d(layer.core.qk + layer.core.v));
}

}  // namespace

Flops layer_forward_flops(const Architecture& a, int64_t layer, int64_t length, bool causal) {
  return forward_flops(a, Layers(a).at(layer), length, causal);
}

Flops training_flops_per_token(const Architecture& a, int64_t length, bool causal) {
  const Layers layers(a);
  Flops forward(2.0 * static_cast<double>(a.vocabulary * a.hidden));
  for (int64_t layer = 0; layer < a.layers; ++layer) {
    forward += forward_flops(a, layers.at(layer), length, causal);
  }
  return forward * 3.0;
}

int64_t ElementFormat::bytes(int64_t width) const {
  constexpr int64_t kPerScale = 128;
  const auto elements = static_cast<int64_t>(std::ceil(static_cast<double>(width) * element));
  return elements + (scaled ? ceil_div(width, kPerScale) * 4 : 0);
}

int64_t fp8_block_bytes(const Linear& linear) {
  constexpr int64_t kBlock = 128;
  constexpr int64_t kLine = 64;
  const auto lines = [](int64_t bytes) { return ceil_div(bytes, kLine) * kLine; };
  return lines(lines(linear.weights()) +
               4 * ceil_div(linear.out, kBlock) * ceil_div(linear.in, kBlock));
}

namespace {

// Elements of a token's activations in a layer, as runtime_bytes adds them up.
class TokenBytes {
 public:
  TokenBytes(const Layer& layer,
             int64_t hidden,
             int64_t active,
             int64_t ranks,
             const Recompute& again,
             const RuntimeFormats& formats)
      : layer_(layer), f_(formats), again_(again), hidden_(hidden), active_(active), ranks_(ranks) {
    for (const Step& s : layer.attention) add(s);
    gradients_ += 2 * f_.kept.bytes(hidden);  // of the layer's output, and of the residual between
  }

  RuntimeBytes all() {
    const auto width = [](const std::optional<Ffn>& f) { return f ? f->width : 0; };
    const int64_t own = width(layer_.dense) + width(layer_.shared);
    const int64_t rows = layer_.experts ? active_ : 0;
    const int64_t one = width(layer_.experts);
    const auto of_rows = [&](const ElementFormat& f, int64_t w) { return rows * f.bytes(w); };
    const int64_t activated =
        again_.activations ? f_.operand.bytes(own) + of_rows(f_.operand, one) : 0;
    const int64_t ffn_kept = f_.swiglu.bytes(2 * own) + of_rows(f_.swiglu, 2 * one) +
                             f_.operand.bytes(own) + of_rows(f_.operand, one) - activated +
                             of_rows(f_.tokens_sent, hidden_);
    const int64_t own_gradient = f_.gradient.bytes(2 * own);
    const int64_t ffn_gradients = own_gradient + of_rows(f_.gradient, 2 * one) +
                                  of_rows(f_.gradients_sent, hidden_) + kFp32 * rows;
    // What the router's products read is computed again for the FFN's backward too.
    const int64_t ffn_norm = again_.norms ? post_norm_ : 0;
    const int64_t regained = (again_.norms ? norms_ : 0) + (again_.up_projections ? expanded_ : 0);
    const int64_t within = within_ + core_wide();
    RuntimeBytes b;
    b.kept = attention_ - ffn_norm - regained + ffn_kept;
    b.waiting = gradients_ + ffn_gradients + ffn_norm + activated + regained;
    b.ending = within;
    // The FFN's backward, or attention's behind the FFN's weight gradients, which free what they
    // used.
    b.backward = ffn_norm +
                 std::max(f_.kept.bytes(hidden_) +
                              ffn_backward(own, rows, one, own_gradient, ffn_gradients) + activated,
                          gradients_ + within + regained - ffn_kept);
    return b;
  }

 private:
  static constexpr int64_t kFp32 = 4;

  // Of attention: what is kept; the gradients of what its matrices give, which their weights'
  // multiply; and what lives within its backward alone, in FP32: gradients of the core's output, of
  // the compressions' norms, and before and behind the first norm.
  void add(const Step& step) {
    if (const auto* norm = std::get_if<Norm>(&step)) {
      // The router reads the FFN's norm, and heads' norms go to the core: kept; else an operand.
      const bool post = norm->part == Part::kPostNorm;
      const bool operand = norm->heads == 0 && !(post && layer_.moe());
      const int64_t size = (operand ? f_.operand : f_.kept).bytes(norm->elements());
      attention_ += size + kFp32 * std::max<int64_t>(1, norm->heads);  // and its factors
      if (norm->width != hidden_) within_ += kFp32 * norm->elements();
      if (post) post_norm_ += size;
      if (norm->heads == 0 && !post) norms_ += size;
    }
    if (const auto* residual = std::get_if<Residual>(&step)) {
      attention_ += f_.kept.bytes(residual->width);
    }
    if (const auto* gate = std::get_if<Gate>(&step)) {
      attention_ += kFp32 * 2 * gate->active;              // choices, weights
      attention_ += kFp32 * (3 * active_ + gate->active);  // by row: weight, token, choice; its row
      gradients_ += kFp32 * gate->active;
    }
    if (const auto* core = std::get_if<Core>(&step)) {
      attention_ += f_.core.bytes(core->heads * core->v) + kFp32 * core->heads;  // and log-sums
      within_ += kFp32 * core->heads * core->v;
    }
    const auto* linear = std::get_if<Linear>(&step);
    // The output projection's goes into the residual.
    if (linear == nullptr || linear->role == Role::kOutput) return;
    if (linear->part == Part::kRouter) {  // scores
      attention_ += kFp32 * linear->out;
      gradients_ += kFp32 * linear->out;
      return;
    }
    attention_ += f_.kept.bytes(linear->out);
    gradients_ += f_.gradient.bytes(linear->out);
    if (linear->role == Role::kExpand) expanded_ += f_.kept.bytes(linear->out);
    if (linear->role == Role::kExpand || linear->part == Part::kQkv) {
      heads_ += linear->out;
      heads_gradient_ += f_.gradient.bytes(linear->out);
    }
    if (linear->part == Part::kQkv) within_ += kFp32 * linear->out;  // by head
  }

  // Copies in FP32 of what the attention core's backward reads and writes.
  int64_t core_wide() const {
    if (!f_.narrow()) return 0;
    return 2 * kFp32 * heads_ - heads_gradient_ + kFp32 * layer_.core.heads * layer_.core.v;
  }

  // own: width of what all tokens go through; rows of width `one`; gradients that stay.
  int64_t ffn_backward(
      int64_t own, int64_t rows, int64_t one, int64_t own_gradient, int64_t ffn_gradients) const {
    const int64_t routed = rows * one;
    // On its way back to other ranks: a sum and a message of every token that came from them, and
    // what comes back for this rank's own.
    const int64_t way_back =
        rows > 0 && ranks_ > 0 ? kFp32 * (ranks_ * (2 * hidden_ + active_) + 2 * hidden_ + active_)
                               : 0;
    const int64_t row_gradient = rows * f_.kept.bytes(hidden_);
    const int64_t row_sent = rows * f_.gradients_sent.bytes(hidden_);
    const bool tokens = layer_.dense || layer_.shared;
    const int64_t ends = row_gradient + (tokens ? f_.kept.bytes(hidden_) : 0);
    if (!f_.narrow()) return ffn_gradients + ends + std::max(kFp32 * (own + routed), way_back);
    // Copies in FP32 of what kernels read and write: of the activation's backward, of the gradient
    // of the experts' input and of its sum.
    const auto activation = [](int64_t w) { return kFp32 * (1 + 2 + 2) * w; };
    const int64_t here = std::max<int64_t>(1, ranks_);
    const int64_t node_sum = ranks_ > 0 ? kFp32 * (hidden_ + active_) : 0;  // before it is rounded
    // Beside the way back weight gradients run, one after the other: gate_up's is the larger.
    const int64_t weights = rows > 0 && own > 0 ? kFp32 * (hidden_ + 2 * own) : 0;
    const int64_t sums = std::max(way_back + node_sum, kFp32 * (rows + here + 1) * hidden_);
    return std::max({row_sent + activation(routed),
                     row_sent + row_gradient + rows * f_.gradient.bytes(2 * one) +
                         kFp32 * (routed + rows * hidden_),
                     ffn_gradients - own_gradient + row_gradient + activation(own),
                     ffn_gradients + row_gradient + kFp32 * (3 * own + hidden_),
                     ffn_gradients + ends + sums + weights});
  }

  const Layer& layer_;
  const RuntimeFormats& f_;
  const Recompute& again_;
  int64_t hidden_, active_, ranks_;
  int64_t attention_ = f_.kept.bytes(hidden_);  // the layer's input
  int64_t gradients_ = 0;
  int64_t within_ = kFp32 * 2 * hidden_;
  int64_t norms_ = 0, post_norm_ = 0;       // of tokens; the FFN's apart
  int64_t expanded_ = 0;                    // from compressions
  int64_t heads_ = 0, heads_gradient_ = 0;  // queries, keys and values of all heads
};

}  // namespace

RuntimeBytes runtime_bytes(const Layer& layer,
                           int64_t hidden,
                           int64_t active,
                           int64_t ranks,
                           const Recompute& again,
                           const RuntimeFormats& formats) {
  return TokenBytes(layer, hidden, active, ranks, again, formats).all();
}

}  // namespace rehearse
