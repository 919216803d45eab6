#include "plan/model.h"

#include <fmt/format.h>

#include "base/yaml.h"
#include "plan/hugging_face.h"

namespace rehearse {

void require_consistent(const Architecture& a, const YamlMap& top) {
  const auto fail = [&](const std::string& message) { top.place().fail("", message); };
  if (a.dense_layers > a.layers) {
    fail(fmt::format("{} dense layers of {} layers: at most all of them can be dense",
                     a.dense_layers,
                     a.layers));
  }
  if (a.dense_layers == a.layers) {
    if (a.mtp_depth > 0) fail("an MTP module's layer has experts, and this model has none");
    return;
  }
  if (a.experts % a.groups != 0) {
    fail(fmt::format("{} experts do not divide into {} groups", a.experts, a.groups));
  }
  if (a.kept_groups > a.groups) {
    fail(fmt::format("{} kept groups of {}: at most all can be kept", a.kept_groups, a.groups));
  }
  const int64_t choices = a.kept_groups * (a.experts / a.groups);
  if (a.active_experts > choices) {
    fail(fmt::format("{} active experts, but the kept groups hold {}", a.active_experts, choices));
  }
  if (a.qk_rope % 2 != 0) {
    fail(fmt::format("qk_rope is {}: RoPE rotates pairs, so it must be even", a.qk_rope));
  }
}

namespace {

Model read_ours(YamlMap top) {
  Model m;
  Architecture& a = m.architecture;
  constexpr IntegerRange kPositive{.min = 1, .max = 1'000'000'000};
  m.name = top.text("name");
  a.vocabulary = top.integer("vocabulary", {.min = 2, .max = 1'000'000'000});
  a.hidden = top.integer("hidden", kPositive);
  a.layers = top.integer("layers", {.min = 1, .max = 10'000});
  a.dense_layers = top.integer("dense_layers", {.min = 0});
  a.norm_eps = top.number("norm_eps", {.min = 0}, a.norm_eps);
  m.init_std = top.number("init_std", {.min = 0}, m.init_std);
  a.mtp_depth = top.integer("mtp_depth", {.min = 0, .max = 1}, 0);

  YamlMap attention = top.map("attention");
  a.heads = attention.integer("heads", kPositive);
  if (attention.has("q_lora")) a.q_lora = attention.integer("q_lora", kPositive);
  a.kv_lora = attention.integer("kv_lora", kPositive);
  a.qk_nope = attention.integer("qk_nope", kPositive);
  a.qk_rope = attention.integer("qk_rope", {.min = 2, .max = 1'000'000});
  a.v_head = attention.integer("v_head", kPositive);
  a.rope_theta = attention.number("rope_theta", {.min = 1}, a.rope_theta);
  if (attention.has("rope_scaling")) {
    m.rope_scaling = attention.choice("rope_scaling", kRopeScalings);
  }
  attention.finish();

  YamlMap mlp = top.map("mlp");
  if (a.dense_layers > 0) a.dense_intermediate = mlp.integer("dense_intermediate", kPositive);
  const bool has_moe = a.dense_layers < a.layers;
  if (has_moe) a.expert_intermediate = mlp.integer("expert_intermediate", kPositive);
  mlp.finish();

  if (has_moe) {
    YamlMap moe = top.map("moe");
    a.experts = moe.integer("experts", kExpertCounts);
    a.shared_experts = moe.integer("shared_experts", {.min = 0, .max = 1000}, 1);
    a.active_experts = moe.integer("active_experts", kPositive);
    a.groups = moe.integer("groups", kPositive, 1);
    a.kept_groups = moe.integer("kept_groups", kPositive, a.groups);
    a.score = moe.choice("score", kScores, ScoreFunction::kSigmoid);
    a.normalize_weights = moe.boolean("normalize_weights", true);
    a.expert_bias = moe.boolean("expert_bias", true);
    a.routed_scaling = moe.number("routed_scaling", {.min = 0}, a.routed_scaling);
    moe.finish();
  }
  top.finish();
  require_consistent(a, top);
  return m;
}

}  // namespace

Model load_model(const std::string& path) {
  YamlMap top = YamlFile::load(path).root();
  return path.ends_with(".json") ? read_hugging_face(std::move(top)) : read_ours(std::move(top));
}

std::string print_model(const Model& model) {
  const Architecture& a = model.architecture;
  std::string out = fmt::format(
      "name: {}\nvocabulary: {}\nhidden: {}\nlayers: {}\ndense_layers: {}\nnorm_eps: {}\n"
      "init_std: {}\nmtp_depth: {}\nattention:\n  heads: {}\n",
      model.name,
      a.vocabulary,
      a.hidden,
      a.layers,
      a.dense_layers,
      a.norm_eps,
      model.init_std,
      a.mtp_depth,
      a.heads);
  if (a.q_lora) out += fmt::format("  q_lora: {}\n", *a.q_lora);
  out +=
      fmt::format("  kv_lora: {}\n  qk_nope: {}\n  qk_rope: {}\n  v_head: {}\n  rope_theta: {}\n",
                  a.kv_lora,
                  a.qk_nope,
                  a.qk_rope,
                  a.v_head,
                  a.rope_theta);
  if (model.rope_scaling) {
    out += fmt::format("  rope_scaling: {}\n", kRopeScalings[*model.rope_scaling]);
  }
  out += "mlp:\n";
  if (a.dense_layers > 0) out += fmt::format("  dense_intermediate: {}\n", a.dense_intermediate);
  if (a.dense_layers == a.layers) return out;
  return out + fmt::format(
                   "  expert_intermediate: {}\nmoe:\n  experts: {}\n  shared_experts: {}\n"
                   "  active_experts: {}\n  groups: {}\n  kept_groups: {}\n  score: {}\n"
                   "  normalize_weights: {}\n  expert_bias: {}\n  routed_scaling: {}\n",
                   a.expert_intermediate,
                   a.experts,
                   a.shared_experts,
                   a.active_experts,
                   a.groups,
                   a.kept_groups,
                   kScores[a.score],
                   a.normalize_weights,
                   a.expert_bias,
                   a.routed_scaling);
}

}  // namespace rehearse
