#include "plan/model.h"

#include <fmt/format.h>

#include "base/yaml.h"
#include "plan/hugging_face.h"

namespace rehearse {

void require_consistent(const Architecture& a, const YamlMap& top) {
  const auto fail = [&](const std::string& message) { top.place().fail("", message); };
  if (a.qk_rope % 2 != 0) {
    fail(fmt::format("qk_rope is {}: RoPE rotates pairs, so it must be even", a.qk_rope));
  }
  if (a.attention == AttentionKind::kGrouped && a.heads % a.kv_heads != 0) {
    fail(fmt::format("{} key-value heads do not divide {} heads", a.kv_heads, a.heads));
  }
  if (a.window && a.windowed.last() >= a.layers) {
    fail(
        fmt::format("layer {} has a window, and there are {} layers", a.windowed.last(), a.layers));
  }
  if (a.experts == 0) return;
  if (a.dense.last() >= a.layers) {
    fail(fmt::format("{} dense layers of {} layers: at most all of them can be dense",
                     a.dense.last() + 1,
                     a.layers));
  }
  if (a.dense_layers() == a.layers) {
    fail("no layer has experts: leave out what is said of them");
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
}

namespace {

constexpr IntegerRange kSize{.min = 1, .max = 1'000'000'000};

// "0-2,5", "all" of `layers`.
LayerSet read_layers(YamlMap& map, const char* key, int64_t layers) {
  const std::string text = map.text(key);
  if (text == "all") return LayerSet::leading(layers);
  const auto set = LayerSet::parse(text);
  if (!set) {
    map.fail(key,
             fmt::format("expected layers in ascending order such as 0-2,5, found '{}'", text));
  }
  return *set;
}

void read_attention(YamlMap map, Model& m) {
  Architecture& a = m.architecture;
  a.attention = map.choice("kind", kAttentionKinds, AttentionKind::kLatent);
  a.heads = map.integer("heads", kSize);
  if (a.attention == AttentionKind::kLatent) {
    if (map.has("q_lora")) a.q_lora = map.integer("q_lora", kSize);
    a.kv_lora = map.integer("kv_lora", kSize);
    a.qk_nope = map.integer("qk_nope", kSize);
    a.qk_rope = map.integer("qk_rope", {.min = 2, .max = 1'000'000});
    a.v_head = map.integer("v_head", kSize);
  } else {
    a.kv_heads = map.integer("kv_heads", kSize, a.heads);
    a.v_head = map.integer("head_dim", kSize);
    const int64_t whole = a.positions > 0 ? 0 : a.v_head;
    a.qk_rope = map.integer("rotated", {.min = 0, .max = a.v_head}, whole);
    a.qk_nope = a.v_head - a.qk_rope;
    a.head_norm = map.choice("head_norm", kHeadNorms, HeadNorm::kNone);
    a.sinks = map.boolean("sinks", false);
    a.qkv_bias = map.boolean("qkv_bias", false);
    a.output_bias = map.boolean("output_bias", false);
    if (map.has("window")) {
      a.window = map.integer("window", kSize);
      a.windowed = LayerSet::leading(a.layers);
      if (map.has("windowed")) a.windowed = read_layers(map, "windowed", a.layers);
    }
  }
  a.rope_theta = map.number("rope_theta", {.min = 1}, a.rope_theta);
  if (map.has("rope_scaling")) m.rope_scaling = map.choice("rope_scaling", kRopeScalings);
  if (map.has("yarn")) {
    if (m.rope_scaling != RopeScaling::kYarn) map.fail("yarn", "is of rope_scaling: yarn");
    YamlMap y = map.map("yarn");
    Yarn yarn;
    yarn.factor = y.number("factor", {.min = 1, .max = 1e6});
    yarn.original_length = y.integer("original_length", {.min = 1, .max = 1'000'000'000});
    yarn.beta_fast = y.number("beta_fast", {.min = 1e-6, .max = 1e6}, yarn.beta_fast);
    yarn.beta_slow = y.number("beta_slow", {.min = 1e-6, .max = 1e6}, yarn.beta_slow);
    if (y.has("mscale")) yarn.mscale = y.number("mscale", {.min = 0, .max = 1e3});
    if (y.has("mscale_all_dim")) {
      yarn.mscale_all_dim = y.number("mscale_all_dim", {.min = 0, .max = 1e3});
    }
    if (y.has("attention_factor")) {
      yarn.attention_factor = y.number("attention_factor", {.min = 1e-6, .max = 1e3});
    }
    yarn.truncate = y.boolean("truncate", true);
    y.finish();
    m.yarn = yarn;
  }
  map.finish();
}

Model read_ours(YamlMap top) {
  Model m;
  Architecture& a = m.architecture;
  m.name = top.text("name");
  a.vocabulary = top.integer("vocabulary", {.min = 2, .max = 1'000'000'000});
  a.hidden = top.integer("hidden", kSize);
  a.layers = top.integer("layers", {.min = 1, .max = 10'000});
  if (top.has("dense")) {
    a.dense = read_layers(top, "dense", a.layers);
  } else {
    a.dense = LayerSet::leading(top.integer("dense_layers", {.min = 0, .max = 10'000}));
  }
  a.norm = top.choice("norm", kNormKinds, NormKind::kRms);
  a.norm_eps = top.number("norm_eps", {.min = 0}, a.norm_eps);
  m.init_std = top.number("init_std", {.min = 0}, m.init_std);
  a.mtp_depth = top.integer("mtp_depth", {.min = 0, .max = 100}, 0);
  a.tied_embeddings = top.boolean("tied_embeddings", false);
  a.normalized_head = top.boolean("normalized_head", false);
  a.positions = top.integer("positions", {.min = 0, .max = 1'000'000'000}, 0);
  a.dropout = top.number("dropout", {.min = 0, .max = 0.99}, 0);
  read_attention(top.map("attention"), m);

  YamlMap mlp = top.map("mlp");
  a.mlp = mlp.choice("kind", kMlpKinds, MlpKind::kGated);
  a.mlp_bias = mlp.boolean("bias", false);
  const bool has_moe = a.dense.count_below(a.layers) < a.layers;
  if (!a.dense.empty()) a.dense_intermediate = mlp.integer("dense_intermediate", kSize);
  if (has_moe) a.expert_intermediate = mlp.integer("expert_intermediate", kSize);
  mlp.finish();

  if (has_moe) {
    YamlMap moe = top.map("moe");
    a.experts = moe.integer("experts", kExpertCounts);
    a.shared_experts = moe.integer("shared_experts", {.min = 0, .max = 1000}, 1);
    a.active_experts = moe.integer("active_experts", kSize);
    a.groups = moe.integer("groups", kSize, 1);
    a.kept_groups = moe.integer("kept_groups", kSize, a.groups);
    a.score = moe.choice("score", kScores, ScoreFunction::kSigmoid);
    a.normalize_weights = moe.boolean("normalize_weights", true);
    a.expert_bias = moe.boolean("expert_bias", true);
    a.router_bias = moe.boolean("router_bias", false);
    a.routed_scaling = moe.number("routed_scaling", {.min = 0}, a.routed_scaling);
    moe.finish();
  } else if (a.dense.last() >= a.layers) {
    top.fail(top.has("dense") ? "dense" : "dense_layers",
             fmt::format("{} dense layers of {} layers: at most all of them can be dense",
                         a.dense.last() + 1,
                         a.layers));
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
  std::string out;
  const auto line = [&](std::string_view key, const auto& value) {
    out += fmt::format("{}: {}\n", key, value);
  };
  const auto unless = [&](std::string_view key, const auto& value, const auto& missing) {
    if (value != missing) line(key, value);
  };
  line("name", model.name);
  line("vocabulary", a.vocabulary);
  line("hidden", a.hidden);
  line("layers", a.layers);
  a.dense.is_leading() ? line("dense_layers", a.dense.count()) : line("dense", a.dense.print());
  if (a.norm != NormKind::kRms) line("norm", kNormKinds[a.norm]);
  line("norm_eps", a.norm_eps);
  line("init_std", model.init_std);
  line("mtp_depth", a.mtp_depth);
  unless("tied_embeddings", a.tied_embeddings, false);
  unless("normalized_head", a.normalized_head, false);
  unless("positions", a.positions, 0);
  unless("dropout", a.dropout, 0.0);
  out += "attention:\n";
  if (a.attention == AttentionKind::kLatent) {
    line("  heads", a.heads);
    if (a.q_lora) line("  q_lora", *a.q_lora);
    line("  kv_lora", a.kv_lora);
    line("  qk_nope", a.qk_nope);
    line("  qk_rope", a.qk_rope);
    line("  v_head", a.v_head);
  } else {
    line("  kind", kAttentionKinds[a.attention]);
    line("  heads", a.heads);
    line("  kv_heads", a.kv_heads);
    line("  head_dim", a.v_head);
    line("  rotated", a.qk_rope);
    if (a.head_norm != HeadNorm::kNone) line("  head_norm", kHeadNorms[a.head_norm]);
    unless("  sinks", a.sinks, false);
    unless("  qkv_bias", a.qkv_bias, false);
    unless("  output_bias", a.output_bias, false);
    if (a.window) {
      line("  window", *a.window);
      line("  windowed", a.windowed.print());
    }
  }
  line("  rope_theta", a.rope_theta);
  if (model.rope_scaling) line("  rope_scaling", kRopeScalings[*model.rope_scaling]);
  if (model.yarn) {
    const Yarn& y = *model.yarn;
    out += "  yarn:\n";
    line("    factor", y.factor);
    line("    original_length", y.original_length);
    line("    beta_fast", y.beta_fast);
    line("    beta_slow", y.beta_slow);
    if (y.mscale) line("    mscale", *y.mscale);
    if (y.mscale_all_dim) line("    mscale_all_dim", *y.mscale_all_dim);
    if (y.attention_factor) line("    attention_factor", *y.attention_factor);
    unless("    truncate", y.truncate, true);
  }
  out += "mlp:\n";
  if (a.mlp != MlpKind::kGated) line("  kind", kMlpKinds[a.mlp]);
  unless("  bias", a.mlp_bias, false);
  if (!a.dense.empty()) line("  dense_intermediate", a.dense_intermediate);
  if (a.experts == 0) return out;
  line("  expert_intermediate", a.expert_intermediate);
  out += "moe:\n";
  line("  experts", a.experts);
  line("  shared_experts", a.shared_experts);
  line("  active_experts", a.active_experts);
  line("  groups", a.groups);
  line("  kept_groups", a.kept_groups);
  line("  score", kScores[a.score]);
  line("  normalize_weights", a.normalize_weights);
  line("  expert_bias", a.expert_bias);
  unless("  router_bias", a.router_bias, false);
  line("  routed_scaling", a.routed_scaling);
  return out;
}

}  // namespace rehearse
