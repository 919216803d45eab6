#include "plan/hugging_face.h"

#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/errors.h"

namespace rehearse {
namespace {

using Config = nlohmann::ordered_json;

Config small() {
  return Config::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "first_k_dense_replace": 1,
    "intermediate_size": 64, "moe_intermediate_size": 16, "n_routed_experts": 8,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "norm_topk_prob": true,
    "topk_method": "noaux_tc", "num_attention_heads": 2, "num_key_value_heads": 2,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "initializer_range": 0.02,
    "torch_dtype": "bfloat16", "tie_word_embeddings": false, "moe_layer_freq": 1,
    "hidden_act": "silu", "rope_scaling": null, "attention_bias": false,
    "max_position_embeddings": 4096
  })");
}

Model read(const Config& config) {
  return read_hugging_face(YamlFile::parse(config.dump(1), "config.json").root());
}

Config with(const std::string& key, Config value) {
  Config c = small();
  c[key] = std::move(value);
  return c;
}
Config without(const std::string& key) {
  Config c = small();
  c.erase(key);
  return c;
}

std::string refused(const Config& config) {
  try {
    read(config);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(HuggingFace, NullIsNone) {
  EXPECT_EQ(read(small()).architecture.q_lora, 16);
  EXPECT_EQ(read(with("q_lora_rank", nullptr)).architecture.q_lora, std::nullopt);
  EXPECT_EQ(read(without("q_lora_rank")).architecture,
            read(with("q_lora_rank", nullptr)).architecture);
  Config groups = with("n_group", nullptr);
  groups["topk_group"] = nullptr;
  EXPECT_EQ(read(groups).architecture.groups, 1);
  EXPECT_EQ(read(groups).architecture.kept_groups, 1);
  EXPECT_EQ(read(with("n_shared_experts", nullptr)).architecture.shared_experts, 0);
  EXPECT_EQ(read(with("n_routed_experts", nullptr)).architecture.dense_layers(), 2);
  EXPECT_EQ(read(with("num_nextn_predict_layers", nullptr)).architecture.mtp_depth, 0);
  EXPECT_EQ(read(with("rope_parameters", nullptr)).architecture.rope_theta, 10000);
  // A size has to be there.
  EXPECT_NE(refused(with("hidden_size", nullptr)).find("hidden_size: this key is missing"),
            std::string::npos);
}

TEST(HuggingFace, RopeThetaIsFoundWhereItIs) {
  Config moved = without("rope_theta");
  moved["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 50000.0}};
  EXPECT_EQ(read(moved).architecture.rope_theta, 50000);
  EXPECT_EQ(read(with("rope_theta", 50000)).architecture, read(moved).architecture);
  moved["rope_parameters"].erase("rope_theta");
  EXPECT_NE(refused(moved).find("rope_theta is missing"), std::string::npos);
  moved["rope_parameters"]["rope_theta"] = 50000.0;
  moved["rope_theta"] = 10000.0;
  EXPECT_NE(refused(moved).find("is 50000, and 10000 at the top"), std::string::npos);

  const Config yarn = with("rope_scaling", {{"type", "yarn"}, {"factor", 40}, {"mscale", 1.0}});
  EXPECT_EQ(read(yarn).rope_scaling, RopeScaling::kYarn);
  EXPECT_EQ(read(small()).rope_scaling, std::nullopt);
  EXPECT_NE(refused(with("rope_scaling", {{"type", "spiral"}})).find("yarn"), std::string::npos);
}

// Scaled RoPE: what a type has is understood, everything else in its mapping is refused by name.
TEST(HuggingFace, RopeScalingsKeysAreUnderstoodOrRefusedByName) {
  const Config deepseek = {{"beta_fast", 32},
                           {"beta_slow", 1},
                           {"factor", 40},
                           {"mscale", 1.0},
                           {"mscale_all_dim", 0.7},
                           {"original_max_position_embeddings", 4096},
                           {"type", "yarn"}};
  EXPECT_EQ(read(with("rope_scaling", deepseek)).yarn,
            (Yarn{.factor = 40, .original_length = 4096, .mscale = 1.0, .mscale_all_dim = 0.7}));
  // gpt-oss's, and Qwen's, which has both names of the type.
  const Config oss = {{"beta_fast", 32.0},
                      {"beta_slow", 1.0},
                      {"factor", 32.0},
                      {"original_max_position_embeddings", 4096},
                      {"rope_type", "yarn"},
                      {"truncate", false}};
  EXPECT_EQ(read(with("rope_scaling", oss)).yarn,
            (Yarn{.factor = 32, .original_length = 4096, .truncate = false}));
  Config qwen = {{"factor", 4.0},
                 {"original_max_position_embeddings", 32768},
                 {"attention_factor", 2.0},
                 {"type", "yarn"},
                 {"rope_type", "yarn"}};
  EXPECT_EQ(read(with("rope_scaling", qwen)).yarn,
            (Yarn{.factor = 4, .original_length = 32768, .attention_factor = 2.0}));
  const auto why = [](const char* key, Config rope) { return refused(with(key, std::move(rope))); };
  const auto plus = [](Config rope, const char* key, Config value) {
    rope[key] = std::move(value);
    return rope;
  };
  EXPECT_NE(why("rope_scaling", plus(qwen, "bogus", 3))
                .find("rope_scaling.bogus: is not known of rope_type yarn, and may change the "
                      "model; expected mrope_interleaved, "),
            std::string::npos);
  EXPECT_EQ(why("rope_scaling", plus(qwen, "bogus", nullptr)), "");
  EXPECT_NE(why("rope_scaling", plus(qwen, "low_freq_factor", 1)).find("low_freq_factor: is not"),
            std::string::npos);
  EXPECT_NE(why("rope_scaling", plus(qwen, "attention_factor", "two")).find("attention_factor: "),
            std::string::npos);
  EXPECT_NE(why("rope_scaling", plus(qwen, "type", "linear")).find("is linear, and rope_type yarn"),
            std::string::npos);
  // Of no scaling there are no numbers of it: was its type forgotten?
  EXPECT_NE(
      why("rope_scaling", {{"factor", 4.0}}).find("factor: is not known of rope_type default"),
      std::string::npos);
  const Config plain = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  EXPECT_EQ(why("rope_parameters", plain), "");
  EXPECT_EQ(why("rope_parameters", plus(plain, "mrope_section", Config::array({2, 1, 1}))), "");
  EXPECT_NE(why("rope_parameters", plus(plain, "full_attention", {{"rope_theta", 1e6}}))
                .find("rope_parameters.full_attention: is not known"),
            std::string::npos);
  EXPECT_NE(why("rope_parameters", plus(plain, "partial_rotary_factor", 0.5))
                .find("partial_rotary_factor: 0.5 is not supported: RoPE rotates 8 of 8"),
            std::string::npos);
  const Config llama = {{"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192},
                        {"rope_type", "llama3"}};
  EXPECT_EQ(read(with("rope_scaling", llama)).rope_scaling, RopeScaling::kLlama3);
  EXPECT_NE(why("rope_scaling", plus(llama, "truncate", true)).find("of rope_type llama3"),
            std::string::npos);
  // In two places: once, or twice the same.
  Config twice = with("rope_scaling", qwen);
  twice["rope_parameters"] = plus(qwen, "rope_theta", 10000.0);
  EXPECT_EQ(refused(twice), "");
  twice["rope_parameters"]["attention_factor"] = 1.0;
  EXPECT_NE(refused(twice).find("rope_scaling: is not what rope_parameters state"),
            std::string::npos);
}

TEST(HuggingFace, OtherMappingsKeysToo) {
  const Config fp8 = {{"activation_scheme", "dynamic"},
                      {"fmt", "e4m3"},
                      {"quant_method", "fp8"},
                      {"scale_fmt", "ue8m0"},
                      {"weight_block_size", Config::array({128, 128})}};
  EXPECT_EQ(refused(with("quantization_config", fp8)), "");
  Config bogus = fp8;
  bogus["bogus"] = 3;
  EXPECT_NE(refused(with("quantization_config", bogus))
                .find("quantization_config.bogus: is not known of stored weights"),
            std::string::npos);
  EXPECT_NE(refused(with("quantization_config", 8)).find("quantization_config: expected a mapping"),
            std::string::npos);
  // Beside a multimodal model's text_config.
  Config whole = {{"architectures", Config::array({"KimiK25ForConditionalGeneration"})},
                  {"auto_map", Config::object()},
                  {"bos_token_id", 163584},
                  {"ignore_index", -100},
                  {"media_placeholder_token_id", 163605},
                  {"model_type", "kimi_k25"},
                  {"quantization_config", fp8},
                  {"text_config", small()},
                  {"tie_word_embeddings", false},
                  {"torch_dtype", "bfloat16"},
                  {"use_unified_vision_chunk", true},
                  {"vision_config", {{"hidden_size", 1152}}},
                  {"vision_start_token_id", 7},
                  {"vocab_size", 256}};
  EXPECT_EQ(refused(whole), "");
  EXPECT_EQ(read(whole).architecture, read(small()).architecture);
  const auto beside = [&](const char* key, Config value) {
    Config c = whole;
    c[key] = std::move(value);
    return refused(c);
  };
  EXPECT_NE(beside("bogus", 3).find("bogus: is not known beside text_config"), std::string::npos);
  EXPECT_NE(beside("vocab_size", 512).find("vocab_size: is 512, and 256 in text_config"),
            std::string::npos);
  EXPECT_NE(beside("quantization_config", bogus).find("quantization_config.bogus"),
            std::string::npos);
  whole["text_config"]["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  EXPECT_NE(beside("rope_scaling", {{"type", "linear"}, {"factor", 4.0}})
                .find("rope_scaling: stands in text_config too"),
            std::string::npos);
  whole["text_config"]["rope_scaling"]["bogus"] = 1;
  EXPECT_NE(refused(whole).find("text_config.rope_scaling.bogus"), std::string::npos);
}

TEST(HuggingFace, WhatChangesTheArchitectureIsUnderstoodOrRefusedByName) {
  const std::pair<const char*, Config> refusals[] = {{"moe_layer_freq", 0},
                                                     {"hidden_act", "gelu"},
                                                     {"attention_bias", true},
                                                     {"attention_dropout", 0.1},
                                                     {"topk_method", "hash"},
                                                     {"scoring_func", "tanh"},
                                                     {"index_topk", 2048},
                                                     {"sliding_window", 128},
                                                     {"use_qk_norm", true},
                                                     {"mlp_only_layers", Config::array({1})},
                                                     {"num_nextn_predict_layers", -1},
                                                     {"a_key_of_tomorrow", 1}};
  for (const auto& [key, value] : refusals) {
    const std::string why = refused(with(key, value));
    EXPECT_NE(why.find("config.json:"), std::string::npos) << key << ": " << why;
    EXPECT_NE(why.find(std::string(key) + ": "), std::string::npos) << why;
  }
  for (const char* key : {"attention_dropout", "hidden_dropout"})
    EXPECT_EQ(refused(with(key, 0.0)), "");
  EXPECT_EQ(refused(with("sliding_window", nullptr)), "");
  EXPECT_EQ(refused(with("_name_or_path", "x")), "");
}

TEST(HuggingFace, TypesSayWhatTheyAreOrWhatIsMissing) {
  EXPECT_EQ(read(with("model_type", "kimi_k2")).architecture, read(small()).architecture);
  Config v2 = with("model_type", "deepseek_v2");
  for (const char* key : {"scoring_func", "topk_method", "norm_topk_prob"}) v2.erase(key);
  const Architecture a = read(v2).architecture;
  EXPECT_EQ(a.score, ScoreFunction::kSoftmax);
  EXPECT_FALSE(a.normalize_weights);
  EXPECT_FALSE(a.expert_bias);
  EXPECT_EQ(a.groups, 1) << "greedy";
  v2["topk_method"] = "group_limited_greedy";
  EXPECT_EQ(read(v2).architecture.groups, 4);

  EXPECT_NE(refused(with("model_type", "mamba")).find("mamba needs state-space layers"),
            std::string::npos);
  EXPECT_NE(refused(with("model_type", "rwkv")).find("'rwkv' is not known; expected one of"),
            std::string::npos);
}

TEST(HuggingFace, PatternsOfLayers) {
  Config c = with("moe_layer_freq", 2);
  c["num_hidden_layers"] = 6;
  EXPECT_EQ(read(c).architecture.dense.print(), "0-1,3,5");
  EXPECT_TRUE(read(with("tie_word_embeddings", true)).architecture.tied_embeddings);
  EXPECT_EQ(read(with("num_nextn_predict_layers", 2)).architecture.mtp_depth, 2);

  Config qwen = Config::parse(R"({
    "model_type": "qwen3_moe", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64,
    "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
    "decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": true})");
  EXPECT_EQ(read(qwen).architecture.dense.print(), "0,2-4");
  EXPECT_EQ(read(qwen).architecture.v_head, 16);
  qwen["num_key_value_heads"] = 3;
  EXPECT_NE(refused(qwen).find("3 key-value heads do not divide 4 heads"), std::string::npos);
  qwen["num_key_value_heads"] = 2;
  qwen["use_sliding_window"] = true;
  qwen["sliding_window"] = 8;
  qwen["max_window_layers"] = 4;
  EXPECT_EQ(read(qwen).architecture.windowed.print(), "4-5");
  EXPECT_EQ(read(qwen).architecture.window, 8);

  Config oss = Config::parse(R"({
    "model_type": "gpt_oss", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16,
    "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})");
  EXPECT_EQ(read(oss).architecture.windowed.print(), "0,2");
  EXPECT_TRUE(read(oss).architecture.sinks);
  oss["layer_types"][1] = "linear_attention";
  EXPECT_NE(refused(oss).find("'linear_attention' is not known"), std::string::npos);
  oss["layer_types"] = Config::array({"full_attention"});
  EXPECT_NE(refused(oss).find("has 1 entries for 3 layers"), std::string::npos);
}

// What a key that is not there means, by the configuration classes of transformers 4.57.
TEST(HuggingFace, MissingKeysMeanWhatTheTypesClassesSay) {
  Config qwen = Config::parse(R"({
    "model_type": "qwen3", "vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 64, "intermediate_size": 64, "use_qk_norm": true, "qkv_bias": false})");
  EXPECT_EQ(read(qwen).architecture.v_head, 128);
  EXPECT_EQ(read(qwen).architecture.kv_heads, 32);
  qwen["head_dim"] = nullptr;
  EXPECT_EQ(read(qwen).architecture.v_head, 2);
  qwen["head_dim"] = 16;
  qwen["num_attention_heads"] = 24;
  EXPECT_NE(refused(qwen).find("32 key-value heads"), std::string::npos);
  qwen["num_attention_heads"] = 64;
  qwen["use_qk_norm"] = false;
  EXPECT_NE(refused(qwen).find("use_qk_norm: "), std::string::npos);

  Config coder = Config::parse(R"({
    "model_type": "qwen3_moe", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "use_qk_norm": true, "shared_expert_intermediate_size": 0})");
  EXPECT_EQ(refused(coder), "");
  coder["shared_expert_intermediate_size"] = 16;
  EXPECT_NE(refused(coder).find("shared_expert_intermediate_size: 16 is not"), std::string::npos);

  Config mistral = Config::parse(R"({
    "model_type": "mistral", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 8, "intermediate_size": 64})");
  EXPECT_EQ(read(mistral).architecture.window, 4096);
  mistral["sliding_window"] = nullptr;
  EXPECT_FALSE(read(mistral).architecture.window);

  Config oss = Config::parse(R"({
    "model_type": "gpt_oss", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 8, "intermediate_size": 16, "num_local_experts": 8,
    "num_experts_per_tok": 2})");
  EXPECT_EQ(read(oss).architecture.windowed.print(), "0,2");
  EXPECT_EQ(read(oss).architecture.window, 128);

  Config v3 = small();
  for (const char* key : {"first_k_dense_replace", "n_group", "topk_group", "n_shared_experts"}) {
    v3.erase(key);
  }
  v3["num_hidden_layers"] = 5;
  v3["n_routed_experts"] = 16;
  const Architecture a = read(v3).architecture;
  EXPECT_EQ(a.dense.print(), "0-2");
  EXPECT_EQ(a.groups, 8);
  EXPECT_EQ(a.kept_groups, 4);
  EXPECT_EQ(a.shared_experts, 1);
}

// Whole files as their publishers have them, whichever keys say nothing here.
TEST(HuggingFace, WholeFilesAreUnderstood) {
  const Config ling = Config::parse(R"({
    "architectures": ["BailingMoeForCausalLM"], "attention_dropout": 0.0, "auto_map": {"a": "b"},
    "eos_token_id": 126081, "pad_token_id": 126081, "first_k_dense_replace": 0,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.006,
    "intermediate_size": 1408, "max_position_embeddings": 32768, "model_type": "bailing_moe",
    "moe_intermediate_size": 1408, "num_experts": 64, "num_shared_experts": 2,
    "norm_topk_prob": true, "num_attention_heads": 16, "num_experts_per_tok": 6,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-06,
    "rope_scaling": null, "rope_theta": 600000, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": true,
    "use_bias": false, "use_qkv_bias": false, "vocab_size": 126464, "output_router_logits": false,
    "embedding_dropout": 0.0, "norm_head": true, "norm_softmax": false, "output_dropout": 0.0})");
  EXPECT_EQ(refused(ling), "");
  EXPECT_TRUE(read(ling).architecture.normalized_head);
  const Config ling2 = Config::parse(R"({
    "architectures": ["BailingMoeV2ForCausalLM"], "model_type": "bailing_moe",
    "num_hidden_layers": 20, "num_nextn_predict_layers": 1, "hidden_size": 2048,
    "intermediate_size": 5120, "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 512, "num_shared_experts": 1, "num_experts": 256,
    "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "norm_topk_prob": true,
    "moe_router_enable_expert_bias": true, "routed_scaling_factor": 2.5,
    "score_function": "sigmoid", "router_dtype": "fp32", "first_k_dense_replace": 1,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128,
    "partial_rotary_factor": 0.5, "use_qk_norm": true, "use_qkv_bias": false, "use_bias": false,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
    "use_rmsnorm": true, "rope_parameters": {"rope_theta": 600000, "rope_type": "default"},
    "vocab_size": 157184, "tie_word_embeddings": false})");
  EXPECT_EQ(refused(ling2), "");
  EXPECT_EQ(read(ling2).architecture.qk_rope, 64);
  EXPECT_EQ(read(ling2).architecture.kept_groups, 4);
  const Config minimax = Config::parse(R"({
    "architectures": ["MiniMaxM2ForCausalLM"], "attention_dropout": 0.0, "auto_map": {},
    "attn_type_list": [1, 1], "bos_token_id": 200034, "eos_token_id": 200020, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
    "intermediate_size": 1536, "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 196608, "mlp_intermediate_size": 8192, "model_type": "minimax_m2",
    "mtp_transformer_layers": 1, "num_attention_heads": 48, "num_experts_per_tok": 8,
    "num_hidden_layers": 2, "num_key_value_heads": 8, "num_local_experts": 256,
    "num_mtp_modules": 3, "output_router_logits": false, "qk_norm_type": "per_layer",
    "quantization_config": {"quant_method": "fp8"}, "rms_norm_eps": 1e-06, "rope_theta": 5000000,
    "rotary_dim": 64, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0,
    "scoring_func": "sigmoid", "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid",
    "sliding_window": null, "tie_word_embeddings": false, "transformers_version": "4.46.1",
    "use_cache": true, "use_mtp": true, "use_qk_norm": true, "use_routing_bias": true,
    "vocab_size": 200064})");
  EXPECT_EQ(refused(minimax), "");
  EXPECT_EQ(read(minimax).architecture.mtp_depth, 3);
  EXPECT_EQ(read(minimax).architecture.qk_rope, 64);
  const Config glm = Config::parse(R"({
    "architectures": ["Glm4MoeForCausalLM"], "attention_bias": true, "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336], "first_k_dense_replace": 1, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 10944, "max_position_embeddings": 131072, "model_type": "glm4_moe",
    "moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 1,
    "norm_topk_prob": true, "num_attention_heads": 96, "num_experts_per_tok": 8,
    "num_hidden_layers": 46, "num_key_value_heads": 8, "num_nextn_predict_layers": 1,
    "pad_token_id": 151329, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05,
    "rope_scaling": null, "rope_theta": 1000000, "routed_scaling_factor": 1.0,
    "tie_word_embeddings": false, "topk_group": 1, "torch_dtype": "bfloat16",
    "transformers_version": "4.54.1", "use_cache": true, "use_qk_norm": false,
    "vocab_size": 151552})");
  EXPECT_EQ(refused(glm), "");
  Config dots = with("model_type", "dots1");
  for (const char* key :
       {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}) {
    dots.erase(key);
  }
  dots["scoring_func"] = "noaux_tc";
  EXPECT_EQ(refused(dots), "");
  EXPECT_EQ(read(dots).architecture.score, ScoreFunction::kSigmoid);
}

TEST(HuggingFace, OurFormHoldsAllOfIt) {
  Config c = with("moe_layer_freq", 2);
  c["num_hidden_layers"] = 6;
  c["tie_word_embeddings"] = true;
  c["rope_scaling"] = {{"type", "yarn"},
                       {"factor", 4.0},
                       {"original_max_position_embeddings", 64},
                       {"attention_factor", 1.5},
                       {"truncate", false}};
  const Model m = read(c);
  const std::string path = testing::TempDir() + fmt::format("/printed_model-{}.yaml", getpid());
  std::ofstream(path) << print_model(m);
  EXPECT_EQ(load_model(path).architecture, m.architecture) << print_model(m);
  EXPECT_EQ(load_model(path).yarn, m.yarn) << print_model(m);
}

}  // namespace
}  // namespace rehearse
