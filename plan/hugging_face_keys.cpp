#include "plan/hugging_face_keys.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rehearse {
namespace {

// What of other architectures is missing here.
struct Unsupported {
  std::string_view type, missing;
};
constexpr auto kUnsupported = std::to_array<Unsupported>({
    {"bloom", "position biases by distance (ALiBi)"},
    {"deepseek_v32", "sparse attention by an indexer (index_topk)"},
    {"falcon", "attention and MLP side by side"},
    {"gemma2", "norms behind attention and MLP, and capped scores"},
    {"gemma3_text", "norms behind attention and MLP"},
    {"gpt_neox", "attention and MLP side by side"},
    {"jamba", "state-space layers"},
    {"llama4_text", "experts that scale their inputs, and layers without positions"},
    {"mamba", "state-space layers"},
    {"phi3", "configurations of its own for long contexts"},
    {"qwen2_moe", "a shared expert of its own width behind a gate"},
    {"qwen3_next", "linear attention"},
});

// Keys that change the architecture or its cost, and the one value of them that is understood,
// where a family does not read them.
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
    {"qkv_bias", "false", "projections have no biases"},
    {"shared_expert_intermediate_size", "0", "there are no shared experts"},
    {"postnorm", "false", "norms stand before attention and MLP"},
    {"use_rmsnorm", "true", "norms are RMSNorms"},
    {"use_bias", "false", "projections have no biases"},
    {"use_qkv_bias", "false", "projections have no biases"},
    {"norm_softmax", "false", "the softmax over the vocabulary is plain"},
    {"embedding_dropout", "0", "there is no dropout"},
    {"output_dropout", "0", "there is no dropout"},
    {"scale_attn_by_inverse_layer_idx", "false", "scores are scaled alike in all layers"},
    {"shared_intermediate_size", "0", "there are no shared experts"},
    {"mtp_transformer_layers", "1", "an MTP module has one layer"},
    {"partial_rotary_factor", "1", "RoPE rotates whole heads"},
    {"qk_layernorm", "false", "queries and keys have no norms of their own"},
    {"use_mla", "true", "attention is multi-head latent attention"},
    {"use_sliding_window", "false", "attention has no windows"},
    {"is_encoder_decoder", "false", "there is a decoder alone"},
    {"add_cross_attention", "false", "there is a decoder alone"},
    {"rope_interleave", "true", "RoPE rotates neighbours"},
    {"multi_gate", "false", "tokens have one router"},
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
    "initial_context_length",
    "id2label",
    "is_decoder",
    "label2id",
    "layernorm_full_attention_alpha",  // factors on residuals
    "layernorm_full_attention_beta",
    "layernorm_linear_attention_alpha",
    "layernorm_linear_attention_beta",
    "layernorm_mlp_alpha",
    "layernorm_mlp_beta",
    "length_penalty",
    "max_length",
    "max_model_len",
    "max_position_embeddings",
    "min_length",
    "moe_router_dtype",
    "mtp_loss_scaling_factor",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "pruned_heads",
    "qk_head_dim",  // qk_nope_head_dim + qk_rope_head_dim
    "quantization",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "reorder_and_upcast_attn",
    "router_aux_loss_coef",
    "router_dtype",
    "router_jitter_noise",
    "scale_attn_weights",
    "sep_token_id",
    "seq_aux",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "shared_moe_mode",
    "suppress_tokens",
    "swiglu_limit",
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
    "use_mrope",  // positions of images
});

// Keys of quantization_config, which is of stored weights: a plan states its precision. Of FP8,
// MXFP4, GPTQ, AWQ, bitsandbytes and compressed-tensors.
constexpr auto kQuantizationKeys = std::to_array<std::string_view>({
    "_load_in_4bit",
    "_load_in_8bit",
    "activation_scale_ub",
    "activation_scheme",
    "backend",
    "batch_size",
    "bits",
    "block_name_to_quantize",
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_storage",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "cache_block_outputs",
    "checkpoint_format",
    "config_groups",
    "damp_percent",
    "dataset",
    "dequantize",
    "desc_act",
    "do_fuse",
    "dynamic",
    "exllama_config",
    "exllama_version",
    "exclude_modules",
    "fmt",
    "format",
    "fuse_max_seq_len",
    "global_compression_ratio",
    "group_size",
    "ignore",
    "ignored_layers",
    "is_marlin_format",
    "kv_cache_quant_algo",
    "kv_cache_scheme",
    "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight",
    "llm_int8_skip_modules",
    "llm_int8_threshold",
    "lm_head",
    "load_in_4bit",
    "load_in_8bit",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "modules_to_not_convert",
    "modules_to_not_quantize",
    "packing_format",
    "pad_token_id",
    "producer",
    "quant_algo",
    "quant_method",
    "quant_type",
    "quantization_status",
    "quantize_lm_head",
    "quantized_weights",
    "run_compressed",
    "scale_fmt",
    "sparsity_config",
    "static_groups",
    "sym",
    "tokenizer",
    "transform_config",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
    "version",
    "weight_block_size",
    "zero_point",
});

// What belongs to a multimodal model's towers and to the places of their outputs among tokens, by
// what a key begins with or ends in.
struct KeyPattern {
  std::string_view begin, end;
};
constexpr auto kOfTowers = std::to_array<KeyPattern>({
    {"audio_", ""},
    {"image_", ""},
    {"media_", ""},
    {"mm_", ""},
    {"multimodal_", ""},
    {"projector_", ""},
    {"video_", ""},
    {"vision_", ""},
    {"vit_", ""},
    {"", "_token_id"},
    {"", "_token_index"},
});
constexpr auto kBesideText = std::to_array<std::string_view>({
    "downsample_ratio",
    "dynamic_image_size",
    "force_image_size",
    "ignore_index",
    "max_dynamic_patch",
    "min_dynamic_patch",
    "model_type",
    "pixel_shuffle_factor",
    "ps_version",
    "select_layer",
    "spatial_merge_size",
    "template",
    "tie_word_embeddings",
    "use_image_newline_parameter",
    "use_thumbnail",
    "use_unified_vision_chunk",
});

void require_only_values(YamlMap& top) {
  for (const OnlyValue& only : kOnlyValues) {
    if (top.asked(only.key) || !top.has(only.key)) continue;
    const std::string found = top.text(only.key);
    const bool whole =
        found == std::string(only.value) + ".0" || found == std::string(only.value) + ".";
    if (found == only.value || whole) continue;
    top.fail(only.key,
             fmt::format("{} is not supported: {}; expected {}", found, only.what, only.value));
  }
}

bool is_of_towers(std::string_view key) {
  return std::ranges::any_of(kOfTowers, [&](const KeyPattern& p) {
    return key.starts_with(p.begin) && key.ends_with(p.end);
  });
}

void require_known_quantization(YamlMap& top) {
  constexpr const char* kKey = "quantization_config";
  if (!top.has(kKey)) return;
  YamlMap quantization = top.map(kKey);
  for (const std::string_view key : kQuantizationKeys) quantization.has(key);
  if (const auto unknown = quantization.first_unknown()) {
    quantization.fail(*unknown,
                      "is not known of stored weights, and may change the model; leave it out if "
                      "it does not");
  }
}

}  // namespace

std::string_view missing_of_type(std::string_view model_type) {
  for (const Unsupported& u : kUnsupported) {
    if (u.type == model_type) return u.missing;
  }
  return "";
}

void require_known_keys(YamlMap& top) {
  require_only_values(top);
  require_known_quantization(top);
  for (const std::string_view key : kHarmless) top.has(key);
  if (const auto unknown = top.first_unknown()) {
    top.fail(
        *unknown,
        "is not known, and may change the architecture or its cost; leave it out if it does not");
  }
}

void require_known_beside(YamlMap& top, YamlMap& text_config) {
  require_known_quantization(top);
  for (const std::string_view key : kHarmless) top.has(key);
  for (const std::string_view key : kBesideText) top.has(key);
  while (const auto key = top.first_unknown()) {
    if (!is_of_towers(*key)) {
      if (!text_config.contains(*key)) {
        top.fail(*key,
                 "is not known beside text_config, where what is of the language model belongs; "
                 "leave it out if it does not change the model");
      }
      if (top.is_list(*key) || *key == "rope_parameters" || *key == "rope_scaling") {
        top.fail(*key, "stands in text_config too, which is what is read; leave it out here");
      }
      if (top.text(*key) != text_config.text(*key)) {
        top.fail(
            *key,
            fmt::format("is {}, and {} in text_config", top.text(*key), text_config.text(*key)));
      }
    }
    top.has(*key);
  }
}

}  // namespace rehearse
