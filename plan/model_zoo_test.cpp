// Hugging Face configs of models that people train, shortened to what says something of their
// architecture, and the numbers of parameters that their publishers state.
// Source of each count: the "Safetensors" line of the model's page on huggingface.co, or the paper
// named beside it; of each config: the config.json there.

#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "cost/layer.h"
#include "plan/hugging_face.h"

namespace rehearse {
namespace {

struct Published {
  const char* name;
  const char* config;
  double parameters;  // MTP modules not counted
  double active = 0;  // where stated with both tables of the vocabulary
};

// How gtest names one.
void PrintTo(const Published& p, std::ostream* out) {
  *out << p.name;
}

class Zoo : public testing::TestWithParam<Published> {};

TEST_P(Zoo, ParametersAreThePublishedOnes) {
  const Published& p = GetParam();
  const Model m = read_hugging_face(YamlFile::parse(p.config, "config.json").root());
  const auto counted = static_cast<double>(total_parameters(m.architecture));
  EXPECT_NEAR(counted / p.parameters, 1, 0.001) << counted;
  if (p.active > 0) {
    EXPECT_NEAR(static_cast<double>(active_parameters(m.architecture)) / p.active, 1, 0.03);
  }
  // Our own form holds all of it.
  const std::string path = testing::TempDir() + fmt::format("/zoo-{}.yaml", getpid());
  std::ofstream(path) << print_model(m);
  EXPECT_EQ(load_model(path).architecture, m.architecture) << print_model(m);
}

INSTANTIATE_TEST_SUITE_P(
    HuggingFace,
    Zoo,
    testing::Values(Published{"gpt2",
                              R"({"model_type": "gpt2", "vocab_size": 50257, "n_embd": 768,
                   "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_ctx": 1024,
                   "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1,
                   "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "n_inner": null})",
                              124439808},
                    Published{"gpt2-xl",
                              R"({"model_type": "gpt2", "vocab_size": 50257, "n_embd": 1600,
                   "n_layer": 48, "n_head": 25, "n_positions": 1024})",
                              1557611200},
                    Published{"Llama-2-7B",
                              R"({"model_type": "llama", "vocab_size": 32000,
                   "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "intermediate_size": 11008, "hidden_act": "silu",
                   "rms_norm_eps": 1e-05, "tie_word_embeddings": false})",
                              6738415616},
                    Published{"Llama-3.1-8B",
                              R"({"model_type": "llama", "vocab_size": 128256,
                   "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "intermediate_size": 14336, "rope_theta": 500000.0,
                   "rope_scaling": {"rope_type": "llama3", "factor": 8.0}})",
                              8030261248},
                    Published{"Llama-3.1-70B",
                              R"({"model_type": "llama", "vocab_size": 128256,
                   "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "intermediate_size": 28672})",
                              70553706496},
                    Published{"Llama-3.1-405B",
                              R"({"model_type": "llama", "vocab_size": 128256,
                   "hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128,
                   "num_key_value_heads": 8, "intermediate_size": 53248})",
                              405853388800},
                    Published{"Llama-3.2-1B",
                              R"({"model_type": "llama", "vocab_size": 128256,
                   "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
                   "tie_word_embeddings": true})",
                              1235814400},
                    Published{"Mistral-7B-v0.1",
                              R"({"model_type": "mistral", "vocab_size": 32000,
                   "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "intermediate_size": 14336, "sliding_window": 4096})",
                              7241732096},
                    Published{"Qwen2.5-0.5B",
                              R"({"model_type": "qwen2", "vocab_size": 151936,
                   "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                   "num_key_value_heads": 2, "intermediate_size": 4864,
                   "tie_word_embeddings": true, "use_sliding_window": false,
                   "sliding_window": 32768, "max_window_layers": 24})",
                              494032768},
                    Published{"Qwen2.5-7B",
                              R"({"model_type": "qwen2", "vocab_size": 152064,
                   "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "intermediate_size": 18944})",
                              7615616512},
                    Published{"Qwen3-0.6B",
                              R"({"model_type": "qwen3", "vocab_size": 151936,
                   "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
                   "tie_word_embeddings": true, "attention_bias": false})",
                              596049920},
                    Published{"Qwen3-8B",
                              R"({"model_type": "qwen3", "vocab_size": 151936,
                   "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288})",
                              8190735360},
                    Published{"Qwen3-30B-A3B",
                              R"({"model_type": "qwen3_moe", "vocab_size": 151936,
                   "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
                   "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
                   "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
                   "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": []})",
                              30532122624,
                              3.3e9},
                    Published{"Qwen3-235B-A22B",
                              R"({"model_type": "qwen3_moe", "vocab_size": 151936,
                   "hidden_size": 4096, "num_hidden_layers": 94, "num_attention_heads": 64,
                   "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 12288,
                   "moe_intermediate_size": 1536, "num_experts": 128, "num_experts_per_tok": 8,
                   "norm_topk_prob": true})",
                              235093634560,
                              22e9},
                    Published{"Mixtral-8x7B",
                              R"({"model_type": "mixtral", "vocab_size": 32000,
                   "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8,
                   "num_experts_per_tok": 2, "sliding_window": null,
                   "router_aux_loss_coef": 0.02})",
                              46702792704,
                              12.9e9},
                    Published{"Mixtral-8x22B",
                              R"({"model_type": "mixtral", "vocab_size": 32000,
                   "hidden_size": 6144, "num_hidden_layers": 56, "num_attention_heads": 48,
                   "num_key_value_heads": 8, "intermediate_size": 16384, "num_local_experts": 8,
                   "num_experts_per_tok": 2})",
                              140620634112,
                              39e9},
                    // 110,468,824,832 in the file, with the MTP layer and its copies of embedding
                    // and head: "106B" of the report (arXiv 2508.06471, table 1).
                    Published{"GLM-4.5-Air",
                              R"({"model_type": "glm4_moe", "vocab_size": 151552,
                   "hidden_size": 4096, "num_hidden_layers": 46, "num_attention_heads": 96,
                   "num_key_value_heads": 8, "head_dim": 128, "partial_rotary_factor": 0.5,
                   "attention_bias": true, "use_qk_norm": false, "intermediate_size": 10944,
                   "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1,
                   "num_experts_per_tok": 8, "first_k_dense_replace": 1, "n_group": 1,
                   "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": true,
                   "num_nextn_predict_layers": 1})",
                              106.85e9},
                    Published{"gpt-oss-20b",
                              R"({"model_type": "gpt_oss", "vocab_size": 201088,
                   "hidden_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
                   "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880,
                   "num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4,
                   "sliding_window": 128, "swiglu_limit": 7.0, "attention_bias": true,
                   "layer_types": ["sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention",
                                   "sliding_attention", "full_attention"]})",
                              20914757184},
                    Published{"MiniMax-M2",
                              R"({"model_type": "minimax_m2", "vocab_size": 200064,
                   "hidden_size": 3072, "num_hidden_layers": 62, "num_attention_heads": 48,
                   "num_key_value_heads": 8, "head_dim": 128, "rotary_dim": 64,
                   "intermediate_size": 1536, "mlp_intermediate_size": 8192,
                   "num_local_experts": 256, "num_experts_per_tok": 8, "scoring_func": "sigmoid",
                   "use_routing_bias": true, "use_qk_norm": true, "qk_norm_type": "per_layer",
                   "shared_intermediate_size": 0, "num_mtp_modules": 3,
                   "mtp_transformer_layers": 1, "use_mtp": true})",
                              228.7e9},
                    // "142B" and 14B active (arXiv 2506.05767).
                    Published{"dots.llm1",
                              R"({"model_type": "dots1", "vocab_size": 152064,
                   "hidden_size": 4096, "num_hidden_layers": 62, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "head_dim": 128, "intermediate_size": 10944,
                   "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 2,
                   "num_experts_per_tok": 6, "first_k_dense_replace": 1, "n_group": 1,
                   "topk_group": 1, "routed_scaling_factor": 2.5, 
                   "norm_topk_prob": true, "topk_method": "noaux_tc"})",
                              142774381696,
                              14e9},
                    Published{"Ling-lite",
                              R"({"model_type": "bailing_moe", "vocab_size": 126464,
                   "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
                   "num_key_value_heads": 4, "intermediate_size": 5632,
                   "moe_intermediate_size": 1408, "num_experts": 64, "num_shared_experts": 2,
                   "num_experts_per_tok": 6, "first_k_dense_replace": 0, "norm_topk_prob": true,
                   "use_bias": false, "use_qkv_bias": false, "norm_head": false, "max_window_layers": 28})",
                              16801974272,
                              2.75e9},
                    Published{"DeepSeek-V2",
                              R"({"model_type": "deepseek_v2", "vocab_size": 102400,
                   "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128,
                   "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512,
                   "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                   "intermediate_size": 12288, "moe_intermediate_size": 1536,
                   "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6,
                   "first_k_dense_replace": 1, "n_group": 8, "topk_group": 3,
                   "routed_scaling_factor": 16.0, "topk_method": "group_limited_greedy"})",
                              235741434880,
                              21e9},
                    Published{"DeepSeek-V2-Lite",
                              R"({"model_type": "deepseek_v2", "vocab_size": 102400,
                   "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
                   "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
                   "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944,
                   "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
                   "num_experts_per_tok": 6, "first_k_dense_replace": 1})",
                              15706484224,
                              2.66e9},
                    // A multimodal model's language model.
                    Published{"Kimi-K2",
                              R"({"model_type": "kimi_k25", "text_config": {
                   "model_type": "kimi_k2", "vocab_size": 163840, "hidden_size": 7168,
                   "num_hidden_layers": 61, "num_attention_heads": 64, "q_lora_rank": 1536,
                   "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                   "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
                   "n_routed_experts": 384, "n_shared_experts": 1, "num_experts_per_tok": 8,
                   "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
                   "routed_scaling_factor": 2.827}})",
                              1026408232448,
                              32.6e9}));

}  // namespace
}  // namespace rehearse
