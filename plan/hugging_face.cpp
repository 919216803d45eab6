#include "plan/hugging_face.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace rehearse {
namespace {

// What of other architectures is missing here.
struct Unsupported {
  std::string_view type, missing;
};
constexpr auto kUnsupported = std::to_array<Unsupported>({
    {"deepseek_v32", "sparse attention by an indexer (index_topk)"},
    {"bailing_moe", "grouped-query attention"},
    {"dots1", "grouped-query attention and query/key norms"},
    {"glm4_moe", "grouped-query attention, attention biases and query/key norms"},
    {"gpt2", "LayerNorm, two-matrix GeLU MLPs, learned positions and tied embeddings"},
    {"gpt_oss", "grouped-query attention with sinks, windows and biases"},
    {"llama", "grouped-query attention"},
    {"minimax_m2", "grouped-query attention and query/key norms"},
    {"mistral", "grouped-query attention"},
    {"mixtral", "grouped-query attention"},
    {"qwen2", "grouped-query attention with biases"},
    {"qwen2_moe", "grouped-query attention with biases"},
    {"qwen3", "grouped-query attention and query/key norms"},
    {"qwen3_moe", "grouped-query attention and query/key norms"},
});

// Keys that change the architecture or its cost, and the one value of them that is understood.
struct OnlyValue {
  std::string_view key, value, what;
};
constexpr auto kOnlyValues = std::to_array<OnlyValue>({
    {"hidden_act", "silu", "SwiGLU is the only activation"},
    {"tie_word_embeddings", "false", "the head has a table of its own"},
    {"attention_bias", "false", "projections have no biases"},
    {"mlp_bias", "false", "projections have no biases"},
    {"attention_dropout", "0", "there is no dropout"},
    {"hidden_dropout", "0", "there is no dropout"},
    {"hidden_dropout_prob", "0", "there is no dropout"},
    {"attention_probs_dropout_prob", "0", "there is no dropout"},
    {"resid_pdrop", "0", "there is no dropout"},
    {"embd_pdrop", "0", "there is no dropout"},
    {"attn_pdrop", "0", "there is no dropout"},
    {"moe_layer_freq", "1", "every layer behind the dense ones has experts"},
    {"decoder_sparse_step", "1", "every layer behind the dense ones has experts"},
    {"pretraining_tp", "1", "linears are whole"},
    {"use_qk_norm", "false", "queries and keys have no norms of their own"},
    {"qk_layernorm", "false", "queries and keys have no norms of their own"},
    {"use_mla", "true", "attention is multi-head latent attention"},
    {"use_sliding_window", "false", "attention has no windows"},
    {"is_encoder_decoder", "false", "there is a decoder alone"},
    {"add_cross_attention", "false", "there is a decoder alone"},
    {"rope_interleave", "true", "RoPE rotates neighbours"},
});

// Keys that say nothing about either.
constexpr auto kHarmless = std::to_array<std::string_view>({
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "auto_map",
    "aux_loss_alpha",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "ep_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "head_dim",  // of MLA: qk_rope_head_dim
    "id2label",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "max_position_embeddings",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_key_value_heads",  // of MLA: num_attention_heads
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "qk_head_dim",          // qk_nope_head_dim + qk_rope_head_dim
    "quantization_config",  // of stored weights; a plan states its precision
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "sep_token_id",
    "seq_aux",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "topk_aux_loss_coef",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
});

void require_only_values(YamlMap& top) {
  for (const OnlyValue& only : kOnlyValues) {
    if (!top.has(only.key)) continue;
    const std::string found = top.text(only.key);
    const bool zero = only.value == "0" && (found == "0.0" || found == "0.");
    if (found == only.value || zero) continue;
    top.fail(only.key,
             fmt::format("{} is not supported: {}; expected {}", found, only.what, only.value));
  }
}

// transformers 5 has rope_theta within rope_parameters, older ones at the top.
void read_rope(YamlMap& top, Model& m) {
  Architecture& a = m.architecture;
  const bool at_top = top.has("rope_theta");
  if (at_top) a.rope_theta = top.number("rope_theta", {.min = 1, .max = 1e15});
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!top.has(key)) continue;
    YamlMap rope = top.map(key);
    if (rope.has("rope_theta")) {
      const double theta = rope.number("rope_theta", {.min = 1, .max = 1e15});
      if (at_top && theta != a.rope_theta) {
        rope.fail("rope_theta", fmt::format("is {}, and {} at the top", theta, a.rope_theta));
      }
      a.rope_theta = theta;
    } else if (std::string_view(key) == "rope_parameters" && !at_top) {
      rope.place().fail(key, "rope_theta is missing");
    }
    const char* type = rope.has("rope_type") ? "rope_type" : "type";
    if (rope.text(type, "default") != "default") m.rope_scaling = rope.choice(type, kRopeScalings);
  }
}

}  // namespace

Model read_hugging_face(YamlMap top) {
  top.null_is_missing();
  Model m;
  Architecture& a = m.architecture;
  constexpr IntegerRange kPositive{.min = 1, .max = 1'000'000'000};
  const std::string type = top.text("model_type");
  // Kimi K2 is DeepSeek-V3's architecture under another name.
  const bool v3 = type == "deepseek_v3" || type == "kimi_k2";
  if (!v3 && type != "deepseek_v2") {
    for (const Unsupported& u : kUnsupported) {
      if (u.type == type) {
        top.fail("model_type", fmt::format("{} needs {}, not supported yet", type, u.missing));
      }
    }
    top.fail("model_type",
             fmt::format("'{}' is not known; expected deepseek_v3, deepseek_v2 or kimi_k2", type));
  }
  require_only_values(top);
  m.name = type;
  a.vocabulary = top.integer("vocab_size", {.min = 2, .max = 1'000'000'000});
  a.hidden = top.integer("hidden_size", kPositive);
  a.layers = top.integer("num_hidden_layers", {.min = 1, .max = 10'000});
  a.dense_layers = top.integer("first_k_dense_replace", {.min = 0, .max = 10'000}, 0);
  a.dense_intermediate = top.integer("intermediate_size", kPositive);
  if (top.has("n_routed_experts")) {
    a.expert_intermediate = top.integer("moe_intermediate_size", kPositive);
    a.experts = top.integer("n_routed_experts", kExpertCounts);
    a.shared_experts = top.integer("n_shared_experts", {.min = 0, .max = 1000}, 0);
    a.active_experts = top.integer("num_experts_per_tok", kPositive);
  } else {
    a.dense_layers = a.layers;  // null: no layer has experts
    for (const char* key : {"moe_intermediate_size", "n_shared_experts", "num_experts_per_tok"}) {
      top.has(key);
    }
  }
  a.groups = top.integer("n_group", kPositive, 1);
  a.kept_groups = top.integer("topk_group", kPositive, a.groups);
  a.routed_scaling = top.number("routed_scaling_factor", {.min = 0, .max = 1e6}, 1.0);
  a.score = v3 ? ScoreFunction::kSigmoid : ScoreFunction::kSoftmax;
  if (top.has("scoring_func")) a.score = top.choice("scoring_func", kScores);
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
  a.heads = top.integer("num_attention_heads", kPositive);
  if (top.has("q_lora_rank")) a.q_lora = top.integer("q_lora_rank", kPositive);
  a.kv_lora = top.integer("kv_lora_rank", kPositive);
  a.qk_nope = top.integer("qk_nope_head_dim", kPositive);
  a.qk_rope = top.integer("qk_rope_head_dim", {.min = 2, .max = 1'000'000});
  a.v_head = top.integer("v_head_dim", kPositive);
  a.norm_eps = top.number("rms_norm_eps", {.min = 0, .max = 1}, a.norm_eps);
  read_rope(top, m);
  a.mtp_depth = top.integer("num_nextn_predict_layers", {.min = 0, .max = 1}, 0);
  m.init_std = top.number("initializer_range", {.min = 0, .max = 1e6}, m.init_std);
  for (const std::string_view key : kHarmless) top.has(key);
  if (const auto unknown = top.first_unknown()) {
    top.fail(
        *unknown,
        "is not known, and may change the architecture or its cost; leave it out if it does not");
  }
  require_consistent(a, top);
  return m;
}

}  // namespace rehearse
