#include "cost/layer.h"

#include "base/names.h"

namespace rehearse {
namespace {

constexpr NameTable kPartNames{std::to_array<Named<Part>>({
    {Part::kInputNorm, "input_layernorm"},
    {Part::kQueryDown, "self_attn.q_a_proj"},
    {Part::kQueryNorm, "self_attn.q_a_layernorm"},
    {Part::kQueryUp, "self_attn.q_b_proj"},
    {Part::kQuery, "self_attn.q_proj"},
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

Ffn ffn(Part gate_up, Part down, int64_t hidden, int64_t width, Rows rows) {
  return {.gate_up = {.part = gate_up, .out = 2 * width, .in = hidden, .rows = rows},
          .down = {.part = down, .out = hidden, .in = width, .rows = rows},
          .width = width};
}
int64_t weights(const std::optional<Ffn>& f) {
  return f ? f->gate_up.weights() + f->down.weights() : 0;
}

// Multi-head latent attention.
std::vector<Step> latent_attention(const Architecture& a) {
  const int64_t queries = a.heads * a.qk_head();
  const int64_t keys_values = a.heads * (a.qk_nope + a.v_head);
  std::vector<Step> steps{Norm{Part::kInputNorm, a.hidden}};
  if (a.q_lora) {
    steps.push_back(Linear{Part::kQueryDown, *a.q_lora, a.hidden, Rows::kTokens, Role::kCompress});
    steps.push_back(Norm{Part::kQueryNorm, *a.q_lora});
  }
  steps.push_back(Linear{a.q_lora ? Part::kQueryUp : Part::kQuery,
                         queries,
                         a.q_lora.value_or(a.hidden),
                         Rows::kTokens,
                         Role::kExpand});
  steps.push_back(
      Linear{Part::kKeyValueDown, a.kv_lora + a.qk_rope, a.hidden, Rows::kTokens, Role::kCompress});
  steps.push_back(Norm{Part::kKeyValueNorm, a.kv_lora});
  steps.push_back(Linear{Part::kKeyValueUp, keys_values, a.kv_lora, Rows::kContext, Role::kExpand});
  steps.push_back(Rope{a.heads, a.qk_rope});
  steps.push_back(Rope{1, a.qk_rope});
  steps.push_back(Core{a.heads, a.qk_head(), a.v_head});
  steps.push_back(
      Linear{Part::kOutput, a.hidden, a.heads * a.v_head, Rows::kTokens, Role::kOutput});
  steps.push_back(Residual{a.hidden});
  steps.push_back(Norm{Part::kPostNorm, a.hidden});
  return steps;
}

Layer make_layer(const Architecture& a, bool moe) {
  Layer layer{.attention = latent_attention(a), .context_width = a.kv_lora + a.qk_rope};
  for (const Step& s : layer.attention) {
    if (const auto* core = std::get_if<Core>(&s)) layer.core = *core;
    const auto* rope = std::get_if<Rope>(&s);
    if (rope != nullptr && layer.rope.heads == 0) layer.rope = *rope;
  }
  if (!moe) {
    layer.dense =
        ffn(Part::kDenseGateUp, Part::kDenseDown, a.hidden, a.dense_intermediate, Rows::kTokens);
    return layer;
  }
  layer.attention.push_back(Linear{Part::kRouter, a.experts, a.hidden});
  layer.attention.push_back(Gate{a.experts, a.active_experts});
  if (a.shared_experts > 0) {
    layer.shared = ffn(Part::kSharedGateUp,
                       Part::kSharedDown,
                       a.hidden,
                       a.shared_experts * a.expert_intermediate,
                       Rows::kTokens);
  }
  layer.experts =
      ffn(Part::kExpertGateUp, Part::kExpertDown, a.hidden, a.expert_intermediate, Rows::kExperts);
  return layer;
}

int64_t parameters_with(const Architecture& a, int64_t routed_experts) {
  const ParameterCounts p = parameter_counts(a);
  const int64_t moe_layers = a.layers - a.dense_layers;
  return a.layers * p.attention + a.dense_layers * p.dense_mlp +
         moe_layers * (p.gate + p.shared + routed_experts * p.expert) + p.embedding + p.head;
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
    if (norm != nullptr && norm->part != but) sum += norm->width;
  }
  return sum;
}

Layers::Layers(const Architecture& a)
    : architecture(a),
      dense(make_layer(a, false)),
      moe(a.experts > 0 ? make_layer(a, true) : dense) {}

ParameterCounts parameter_counts(const Architecture& a) {
  const Layers layers(a);
  ParameterCounts p;
  p.attention = layers.dense.norm_width();
  for (const Linear& l : layers.dense.projections()) p.attention += l.weights();
  p.dense_mlp = weights(layers.dense.dense);
  p.gate = a.experts * a.hidden;
  p.expert = weights(layers.moe.experts);
  p.shared = weights(layers.moe.shared);
  p.embedding = a.vocabulary * a.hidden;
  p.head = a.vocabulary * a.hidden + a.hidden;
  p.mtp_projection = 2 * a.hidden * a.hidden + 3 * a.hidden;
  return p;
}

int64_t total_parameters(const Architecture& a) {
  return parameters_with(a, a.experts);
}
int64_t active_parameters(const Architecture& a) {
  return parameters_with(a, a.active_experts);
}

namespace {

Flops forward_flops(const Architecture& a, const Layer& layer, int64_t length, bool causal) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  double products = 0;
  for (const Step& s : layer.attention) {
    if (const auto* linear = std::get_if<Linear>(&s)) products += d(linear->weights());
  }
  products += d(weights(layer.dense)) + d(weights(layer.shared)) +
              d(a.active_experts) * d(weights(layer.experts));
  const double keys = causal ? (d(length) + 1) / 2 : d(length);
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

int64_t kept_elements(const Layer& layer, int64_t hidden, int64_t active) {
  int64_t kept = hidden;  // the layer's input
  for (const Step& s : layer.attention) {
    if (const auto* norm = std::get_if<Norm>(&s)) kept += norm->width;
    if (const auto* residual = std::get_if<Residual>(&s)) kept += residual->width;
    if (const auto* gate = std::get_if<Gate>(&s)) kept += 2 * gate->active;  // choices, weights
    if (const auto* core = std::get_if<Core>(&s)) {
      kept += core->heads * core->v + core->heads;  // and log-sums
    }
    const auto* linear = std::get_if<Linear>(&s);
    // The output projection's goes into the residual.
    if (linear != nullptr && linear->role != Role::kOutput) kept += linear->out;
  }
  const auto of_ffn = [](const std::optional<Ffn>& f) { return f ? 3 * f->width : 0; };
  kept += of_ffn(layer.dense) + of_ffn(layer.shared);
  if (layer.experts) kept += active * (hidden + of_ffn(layer.experts));
  return kept;
}

}  // namespace rehearse
