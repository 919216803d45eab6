#include "plan/hugging_face.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "plan/hugging_face_keys.h"
#include "plan/hugging_face_rope.h"

namespace rehearse {
namespace {

constexpr IntegerRange kPositive{.min = 1, .max = 1'000'000'000};
constexpr IntegerRange kCount{.min = 0, .max = 1'000'000'000};

// --- parts that families share

void read_ends(YamlMap& top, Model& m, bool tied) {
  Architecture& a = m.architecture;
  a.vocabulary = top.integer("vocab_size", {.min = 2, .max = 1'000'000'000});
  a.tied_embeddings = top.boolean("tie_word_embeddings", tied);
  m.init_std = top.number("initializer_range", {.min = 0, .max = 1e6}, m.init_std);
}

void read_sizes(YamlMap& top, Architecture& a) {
  a.hidden = top.integer("hidden_size", kPositive);
  a.layers = top.integer("num_hidden_layers", {.min = 1, .max = 10'000});
  a.norm_eps = top.number("rms_norm_eps", {.min = 0, .max = 1}, a.norm_eps);
}

// Of MLA heads are as many as query heads, and "head_dim" is that of the rotated part.
void read_latent(YamlMap& top, Architecture& a) {
  a.heads = top.integer("num_attention_heads", kPositive);
  if (top.has("q_lora_rank")) a.q_lora = top.integer("q_lora_rank", kPositive);
  a.kv_lora = top.integer("kv_lora_rank", kPositive);
  a.qk_nope = top.integer("qk_nope_head_dim", kPositive);
  a.qk_rope = top.integer("qk_rope_head_dim", {.min = 2, .max = 1'000'000});
  a.v_head = top.integer("v_head_dim", kPositive);
  for (const char* key : {"head_dim", "num_key_value_heads"}) top.has(key);
}

// missing: what the type's configuration class takes for keys that are not there (0: as for null,
// which is as many as heads, and hidden_size over heads).
struct GroupedDefaults {
  int64_t kv_heads = 0, head_dim = 0;
};
void read_grouped(YamlMap& top, Architecture& a, const GroupedDefaults& missing = {}) {
  const auto of_class = [&](const char* key, int64_t value, int64_t null) {
    return value == 0 || top.contains(key) ? null : value;
  };
  a.attention = AttentionKind::kGrouped;
  a.heads = top.integer("num_attention_heads", kPositive);
  a.kv_heads = top.integer(
      "num_key_value_heads", kPositive, of_class("num_key_value_heads", missing.kv_heads, a.heads));
  const int64_t width = of_class("head_dim", missing.head_dim, a.hidden / a.heads);
  if (!top.has("head_dim") && width * a.heads != a.hidden && missing.head_dim != width) {
    top.fail("num_attention_heads",
             fmt::format("{} heads do not divide hidden_size of {}, and head_dim is not there",
                         a.heads,
                         a.hidden));
  }
  a.v_head = top.integer("head_dim", kPositive, width);
  a.qk_rope = a.v_head;
}

// As much of a head as is rotated: `share` of it.
void read_rotated(Architecture& a, double share) {
  a.qk_rope = std::llround(static_cast<double>(a.v_head) * share);
  a.qk_nope = a.v_head - a.qk_rope;
}

// A window where `key` states one, in the layers of "layer_types", else in those from `first` on.
void read_windows(YamlMap& top, Architecture& a, const char* key, int64_t first) {
  if (top.has(key)) a.window = top.integer(key, kPositive);
  if (top.has("layer_types")) {
    const std::vector<std::string> types = top.texts("layer_types");
    if (static_cast<int64_t>(types.size()) != a.layers) {
      top.fail("layer_types", fmt::format("has {} entries for {} layers", types.size(), a.layers));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] == "sliding_attention") {
        a.windowed.insert(static_cast<int64_t>(i));
      } else if (types[i] != "full_attention") {
        top.fail("layer_types",
                 fmt::format("'{}' is not known; expected full_attention or sliding_attention",
                             types[i]));
      }
    }
    if (!a.windowed.empty() && !a.window) {
      top.fail("layer_types", fmt::format("names layers with a window, and {} is missing", key));
    }
  } else if (a.window) {
    for (int64_t layer = first; layer < a.layers; ++layer) a.windowed.insert(layer);
  }
  if (a.windowed.empty()) a.window.reset();
}

void read_silu(YamlMap& top) {
  if (const std::string act = top.text("hidden_act", "silu"); act != "silu") {
    top.fail(
        "hidden_act",
        fmt::format("{} is not supported: SwiGLU is this family's activation; expected silu", act));
  }
}

// A key that is not there means `missing`; null means as few as there can be.
int64_t counted(YamlMap& top, const char* key, IntegerRange range, int64_t missing) {
  return top.integer(key, range, top.contains(key) ? range.min : missing);
}

// Layers by what makes one dense: `is_dense` of its number.
template <typename F>
void set_dense(Architecture& a, F is_dense) {
  for (int64_t layer = 0; layer < a.layers; ++layer) {
    if (is_dense(layer)) a.dense.insert(layer);
  }
}

// Of DeepSeek's kind: leading dense layers, sigmoid or softmax scores, groups, shared experts.
// types: what a missing key means, V3's values or V2's.
// missing: what the type's configuration class takes for keys that are not there.
struct ExpertDefaults {
  int64_t dense = 0, groups = 1, kept_groups = 1, shared = 0;
};
void read_deepseek_experts(YamlMap& top,
                           Architecture& a,
                           bool v3,
                           const ExpertDefaults& missing,
                           const std::string& score = "scoring_func") {
  const int64_t leading =
      counted(top, "first_k_dense_replace", {.min = 0, .max = 10'000}, missing.dense);
  const int64_t every = top.integer("moe_layer_freq", {.min = 1, .max = 10'000}, 1);
  if (leading > 0 || !top.has("n_routed_experts") || every > 1) {
    a.dense_intermediate = top.integer("intermediate_size", kPositive);
  } else {
    top.has("intermediate_size");
  }
  if (!top.has("n_routed_experts")) {  // null: no layer has experts
    for (const char* key : {"moe_intermediate_size", "n_shared_experts", "num_experts_per_tok"}) {
      top.has(key);
    }
  } else {
    set_dense(a, [&](int64_t layer) { return layer < leading || layer % every != 0; });
    a.expert_intermediate = top.integer("moe_intermediate_size", kPositive);
    a.experts = top.integer("n_routed_experts", kExpertCounts);
    a.shared_experts = counted(top, "n_shared_experts", {.min = 0, .max = 1000}, missing.shared);
    a.active_experts = top.integer("num_experts_per_tok", kPositive);
  }
  a.groups = counted(top, "n_group", kPositive, missing.groups);
  a.kept_groups = counted(top, "topk_group", kPositive, std::min(a.groups, missing.kept_groups));
  a.routed_scaling = top.number("routed_scaling_factor", {.min = 0, .max = 1e6}, 1.0);
  a.score = v3 ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax;
  if (!score.empty() && top.has(score)) a.score = top.choice(score, kScores);
  a.normalize_weights = top.boolean("norm_topk_prob", v3);
  const std::string method = top.text("topk_method", v3 ? "noaux_tc" : "greedy");
  a.expert_bias = method == "noaux_tc";
  if (method == "greedy") {
    a.groups = a.kept_groups = 1;  // whatever n_group says
  } else if (method != "noaux_tc" && method != "group_limited_greedy") {
    top.fail("topk_method",
             fmt::format("'{}' is not known; expected noaux_tc, group_limited_greedy or greedy",
                         method));
  }
  a.mtp_depth = top.integer("num_nextn_predict_layers", {.min = 0, .max = 100}, 0);
}

// Softmax over the chosen, no bias, no groups, no shared expert.
void softmax_experts(YamlMap& top, Architecture& a, const char* experts, const char* width) {
  a.experts = top.integer(experts, kExpertCounts);
  a.active_experts = top.integer("num_experts_per_tok", kPositive);
  a.expert_intermediate = top.integer(width, kPositive);
  a.score = ScoreFunction::kSoftmax;
  a.normalize_weights = true;
  a.expert_bias = false;
}

// --- families

void read_deepseek_v3(YamlMap& top, Model& m) {
  read_latent(top, m.architecture);
  read_deepseek_experts(
      top, m.architecture, true, {.dense = 3, .groups = 8, .kept_groups = 4, .shared = 1});
}
void read_deepseek_v2(YamlMap& top, Model& m) {
  read_latent(top, m.architecture);
  read_deepseek_experts(top, m.architecture, false, {});
}

void read_llama(YamlMap& top, Model& m, const GroupedDefaults& missing) {
  Architecture& a = m.architecture;
  read_grouped(top, a, missing);
  a.qkv_bias = a.output_bias = top.boolean("attention_bias", false);
  a.mlp_bias = top.boolean("mlp_bias", false);
  a.dense_intermediate = top.integer("intermediate_size", kPositive);
}

void read_llama(YamlMap& top, Model& m) {
  read_llama(top, m, {});
}

void read_mistral(YamlMap& top, Model& m) {
  read_llama(top, m, {.kv_heads = 8});
  if (!top.contains("sliding_window")) m.architecture.window = 4096;
  read_windows(top, m.architecture, "sliding_window", 0);
}

void read_qwen2(YamlMap& top, Model& m, const GroupedDefaults& missing) {
  Architecture& a = m.architecture;
  read_grouped(top, a, missing);
  a.qkv_bias = true;
  a.dense_intermediate = top.integer("intermediate_size", kPositive);
  const bool windows = top.boolean("use_sliding_window", false);
  const int64_t first = top.integer("max_window_layers", kCount, 28);
  if (windows) {
    read_windows(top, a, "sliding_window", first);
  } else {
    for (const char* key : {"sliding_window", "layer_types"}) top.has(key);
  }
}

void read_qwen2(YamlMap& top, Model& m) {
  read_qwen2(top, m, {.kv_heads = 32});
}

void read_qwen3(YamlMap& top, Model& m, const GroupedDefaults& missing) {
  Architecture& a = m.architecture;
  read_qwen2(top, m, missing);
  if (!top.boolean("use_qk_norm", true)) {
    top.fail("use_qk_norm", "false, but this type's queries and keys have norms of their own");
  }
  a.qkv_bias = a.output_bias = top.boolean("attention_bias", false);
  a.head_norm = HeadNorm::kPerHead;
}

void read_qwen3(YamlMap& top, Model& m) {
  read_qwen3(top, m, {.kv_heads = 32, .head_dim = 128});
}

void read_qwen3_moe(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_qwen3(top, m, {.kv_heads = 4});
  softmax_experts(top, a, "num_experts", "moe_intermediate_size");
  a.normalize_weights = top.boolean("norm_topk_prob", false);
  const int64_t every = top.integer("decoder_sparse_step", kPositive, 1);
  std::vector<int64_t> dense;
  if (top.has("mlp_only_layers")) dense = top.integers("mlp_only_layers", kCount);
  set_dense(a, [&](int64_t layer) {
    return (layer + 1) % every != 0 || std::ranges::find(dense, layer) != dense.end();
  });
  if (a.dense.empty()) a.dense_intermediate = 0;  // whatever intermediate_size says
}

void read_mixtral(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_grouped(top, a, {.kv_heads = 8});
  softmax_experts(top, a, "num_local_experts", "intermediate_size");
  read_windows(top, a, "sliding_window", 0);
}

void read_glm4_moe(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_grouped(top, a, {.kv_heads = 8});
  read_rotated(a, rotated_share(top, 0.5));
  a.qkv_bias = top.boolean("attention_bias", false);
  if (top.boolean("use_qk_norm", false)) a.head_norm = HeadNorm::kPerHead;
  read_deepseek_experts(top, a, true, {.dense = 1, .shared = 1});
}

void read_gpt_oss(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_grouped(top, a, {.kv_heads = 8, .head_dim = 64});
  a.sinks = true;
  a.qkv_bias = a.output_bias = top.boolean("attention_bias", true);
  softmax_experts(top, a, "num_local_experts", "intermediate_size");
  if (top.has("experts_per_token") &&
      top.integer("experts_per_token", kPositive) != a.active_experts) {
    top.fail("experts_per_token",
             fmt::format("is not num_experts_per_tok, which is {}", a.active_experts));
  }
  a.router_bias = a.mlp_bias = true;
  if (!top.contains("sliding_window")) a.window = 128;
  if (!top.has("layer_types")) {  // every second layer, the first with one
    for (int64_t layer = 0; layer < a.layers; layer += 2) a.windowed.insert(layer);
  }
  read_windows(top, a, "sliding_window", a.layers);
}

void read_minimax_m2(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_grouped(top, a);
  const int64_t rotated = top.integer("rotary_dim", {.min = 0, .max = a.v_head}, a.v_head);
  read_rotated(a, rotated_share(top, static_cast<double>(rotated) / static_cast<double>(a.v_head)));
  a.qkv_bias = a.output_bias = top.boolean("attention_bias", false);
  if (top.boolean("use_qk_norm", true)) {
    const std::string kind = top.text("qk_norm_type", "per_layer");
    if (kind != "per_layer") {
      top.fail("qk_norm_type", fmt::format("'{}' is not known; expected per_layer", kind));
    }
    a.head_norm = HeadNorm::kWhole;
  } else {
    top.has("qk_norm_type");
  }
  softmax_experts(top, a, "num_local_experts", "intermediate_size");
  a.score = top.choice("scoring_func", kScores, ScoreFunction::kSigmoid);
  a.expert_bias = top.boolean("use_routing_bias", true);
  top.has("mlp_intermediate_size");  // of dense layers, of which there are none
  if (top.has("attn_type_list")) {
    for (const int64_t kind : top.integers("attn_type_list", kCount)) {
      if (kind != 1) {
        top.fail("attn_type_list",
                 fmt::format("{} is not supported: attention is softmax in all layers; expected 1",
                             kind));
      }
    }
  }
  const int64_t modules = top.integer("num_mtp_modules", {.min = 0, .max = 100}, 0);
  if (top.boolean("use_mtp", modules > 0)) a.mtp_depth = modules;
}

void read_dots1(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_grouped(top, a, {.kv_heads = 32});
  a.qkv_bias = a.output_bias = top.boolean("attention_bias", false);
  a.head_norm = HeadNorm::kPerHead;
  // Some files state the method here.
  const bool method = top.has("scoring_func") && top.text("scoring_func") == "noaux_tc";
  read_deepseek_experts(top, a, true, {}, method ? "" : "scoring_func");
  const int64_t first = top.integer("max_window_layers", kCount, a.layers);
  read_windows(top, a, "sliding_window", first);
}

// Ling's first generation, and its second, which says score_function and more under the same name.
void read_bailing_moe(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  read_grouped(top, a);
  read_rotated(a, rotated_share(top, 1));
  a.output_bias = top.boolean("use_bias", false);
  a.qkv_bias = top.boolean("use_qkv_bias", false);
  if (top.boolean("use_qk_norm", false)) a.head_norm = HeadNorm::kPerHead;
  softmax_experts(top, a, "num_experts", "moe_intermediate_size");
  a.normalize_weights = top.boolean("norm_topk_prob", true);
  a.shared_experts = top.integer("num_shared_experts", {.min = 0, .max = 1000}, 0);
  if (top.has("moe_shared_expert_intermediate_size") &&
      top.integer("moe_shared_expert_intermediate_size", kPositive) !=
          a.shared_experts * a.expert_intermediate) {
    top.fail("moe_shared_expert_intermediate_size",
             fmt::format("is not {}, the width of {} shared experts",
                         a.shared_experts * a.expert_intermediate,
                         a.shared_experts));
  }
  a.score = top.choice("score_function", kScores, ScoreFunction::kSoftmax);
  a.expert_bias = top.boolean("moe_router_enable_expert_bias", false);
  a.groups = top.integer("n_group", kPositive, 1);
  a.kept_groups = top.integer("topk_group", kPositive, a.groups);
  a.routed_scaling = top.number("routed_scaling_factor", {.min = 0, .max = 1e6}, 1.0);
  a.mtp_depth = top.integer("num_nextn_predict_layers", {.min = 0, .max = 100}, 0);
  a.normalized_head = top.boolean("norm_head", false);
  for (const char* key : {"max_window_layers", "sliding_window"}) {
    if (!top.boolean("use_sliding_window", false)) top.has(key);
  }
  const int64_t leading = top.integer("first_k_dense_replace", {.min = 0, .max = 10'000}, 0);
  set_dense(a, [&](int64_t layer) { return layer < leading; });
  if (leading > 0) {
    a.dense_intermediate = top.integer("intermediate_size", kPositive);
  } else {
    top.has("intermediate_size");
  }
}

void read_gpt2(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  a.attention = AttentionKind::kGrouped;
  a.hidden = top.integer("n_embd", kPositive);
  a.layers = top.integer("n_layer", {.min = 1, .max = 10'000});
  a.heads = a.kv_heads = top.integer("n_head", kPositive);
  if (a.hidden % a.heads != 0) {
    top.fail("n_head", fmt::format("{} heads do not divide n_embd of {}", a.heads, a.hidden));
  }
  a.qk_nope = a.v_head = a.hidden / a.heads;
  a.positions = top.integer("n_positions", kPositive, 1024);
  top.has("n_ctx");
  a.dense_intermediate = top.integer("n_inner", kPositive, 4 * a.hidden);
  const std::string act = top.text("activation_function", "gelu_new");
  if (!act.starts_with("gelu")) {
    top.fail("activation_function",
             fmt::format("{} is not supported: GeLU is this family's activation; expected gelu or "
                         "gelu_new",
                         act));
  }
  a.mlp = MlpKind::kGelu;
  a.norm = NormKind::kLayer;
  a.norm_eps = top.number("layer_norm_epsilon", {.min = 0, .max = 1}, 1e-5);
  a.qkv_bias = a.output_bias = a.mlp_bias = true;
  constexpr NumberRange kShare{.min = 0, .max = 0.99};
  const double residual = top.number("resid_pdrop", kShare, 0.1);
  for (const char* key : {"embd_pdrop", "attn_pdrop"}) {
    if (top.number(key, kShare, 0.1) != residual) {
      top.fail(key, fmt::format("is not resid_pdrop, which is {}: dropout is one here", residual));
    }
  }
  a.dropout = residual;
}

struct ModelFamily {
  std::string_view type;
  void (*read)(YamlMap& top, Model& m);
  bool tied = false;  // where tie_word_embeddings is missing
};
constexpr auto kFamilies = std::to_array<ModelFamily>({
    {"bailing_moe", read_bailing_moe},
    {"deepseek_v2", read_deepseek_v2},
    {"deepseek_v3", read_deepseek_v3},
    {"dots1", read_dots1},
    {"glm4_moe", read_glm4_moe},
    {"gpt2", read_gpt2, true},
    {"gpt_oss", read_gpt_oss},
    {"kimi_k2", read_deepseek_v3},  // DeepSeek-V3's architecture under another name
    {"llama", read_llama},
    {"minimax_m2", read_minimax_m2},
    {"mistral", read_mistral},
    {"mixtral", read_mixtral},
    {"qwen2", read_qwen2},
    {"qwen3", read_qwen3},
    {"qwen3_moe", read_qwen3_moe},
});

const ModelFamily& family_of(YamlMap& top) {
  const std::string type = top.text("model_type");
  std::vector<std::string_view> known;
  for (const ModelFamily& f : kFamilies) {
    if (f.type == type) return f;
    known.push_back(f.type);
  }
  if (const std::string_view missing = missing_of_type(type); !missing.empty()) {
    top.fail("model_type", fmt::format("{} needs {}, not supported", type, missing));
  }
  top.fail("model_type",
           fmt::format("'{}' is not known; expected one of {}", type, fmt::join(known, ", ")));
}

}  // namespace

Model read_hugging_face(YamlMap top) {
  top.null_is_missing();
  // A multimodal model: its language model alone, whose embeddings may be tied at the top.
  if (top.has("text_config")) {
    YamlMap text = top.map("text_config");
    Model m = read_hugging_face(text);
    if (top.has("tie_word_embeddings")) {
      m.architecture.tied_embeddings = top.boolean("tie_word_embeddings", false);
    }
    require_known_beside(top, text);
    return m;
  }
  Model m;
  const ModelFamily& family = family_of(top);
  m.name = std::string(family.type);
  read_ends(top, m, family.tied);
  if (family.read != read_gpt2) read_sizes(top, m.architecture);
  family.read(top, m);
  if (m.architecture.experts == 0) m.architecture.dense = LayerSet::leading(m.architecture.layers);
  if (m.architecture.positions == 0) {
    read_rope(top, m);
    read_silu(top);
  }
  require_known_keys(top);
  require_consistent(m.architecture, top);
  return m;
}

}  // namespace rehearse
