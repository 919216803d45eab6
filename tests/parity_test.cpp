// The trainer beside an independent implementation of DeepSeek-V3 (tests/reference_v3.py): logits
// and gradients of weights that rehearse wrote, read under Hugging Face's names.

#include <cstdlib>

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class Parity : public CommandTest {
 protected:
  static Json config() {
    return Json::parse(R"({
      "model_type": "deepseek_v3", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3,
      "first_k_dense_replace": 1, "intermediate_size": 48, "moe_intermediate_size": 16,
      "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4,
      "topk_group": 2, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
      "topk_method": "noaux_tc", "norm_topk_prob": true, "num_attention_heads": 2,
      "num_key_value_heads": 2, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
      "qk_rope_head_dim": 4, "v_head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
      "max_position_embeddings": 64, "num_nextn_predict_layers": 2, "initializer_range": 0.05,
      "tie_word_embeddings": false, "hidden_act": "silu", "attention_bias": false,
      "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 16,
                       "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.7}})");
  }
  void expect_parity(const Json& config, const std::string& layout) {
    if (std::system("/usr/bin/python3 -c 'import numpy' 2> /dev/null") != 0) {
      GTEST_SKIP() << "no NumPy";
    }
    std::string text;
    while (text.size() < 10'000) text += "Every token goes to the experts that know it best. ";
    write("text.txt", text);
    write("config.json", config.dump());
    write("plan.yaml",
          "model: config.json\ncluster: localhost.yaml\n" + layout +
              "  sequence_length: 24\n  steps: 12\n  learning_rate: 1e-2\n  warmup_steps: 2\n"
              "  balance_loss: 0.01\n  mtp_loss: 0.5\n  bias_update_speed: 0.05\n");
    const CommandResult trained =
        rehearse("train plan.yaml --data text.txt -q --out run --checkpoint-every 12");
    ASSERT_EQ(trained.exit_code, 0) << trained.err;
    const std::string weights = "run/checkpoints/step-00000012/model-00001-of-00001.safetensors";
    const CommandResult dumped =
        rehearse("train plan.yaml --data text.txt --steps 0 --from " + weights +
                 " --dump-logits logits.safetensors --dump-gradients gradients.safetensors");
    ASSERT_EQ(dumped.exit_code, 0) << dumped.err;
    const std::string out = (folder_ / "out.txt").string();
    const std::string command = "cd '" + folder_.string() + "' && /usr/bin/python3 '" +
                                REHEARSE_SOURCE_DIR + "/tests/reference_v3.py' config.json " +
                                weights +
                                " logits.safetensors gradients.safetensors --balance-loss 0.01 "
                                "--mtp-loss 0.5 > '" +
                                out + "' 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0) << read("out.txt");
  }
  const std::string four_ranks_ =
      "layout: {pp: 2, dp: 2, ep: 2, schedule: dualpipe}\n"
      "training:\n  micro_batches: 4\n  micro_batch_size: 1\n";
  const std::string one_rank_ =
      "layout: {dp: 1}\ntraining:\n  micro_batches: 2\n  micro_batch_size: 2\n";
};

TEST_F(Parity, WithEveryFeature) {
  expect_parity(config(), four_ranks_);
}

// One full query projection, no groups, no shared expert, weights not normalised, plain RoPE.
TEST_F(Parity, WithoutWhatCanBeLeftOut) {
  Json c = config();
  c["q_lora_rank"] = nullptr;
  c["n_group"] = 1;
  c["topk_group"] = 1;
  c["n_shared_experts"] = 0;
  c["norm_topk_prob"] = false;
  c["num_nextn_predict_layers"] = 0;
  c["rope_scaling"] = nullptr;
  expect_parity(c, one_rank_);
}

Json qwen3() {
  return Json::parse(R"({
      "model_type": "qwen3_moe", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3,
      "intermediate_size": 48, "moe_intermediate_size": 16, "num_experts": 8,
      "num_experts_per_tok": 3, "norm_topk_prob": true, "num_attention_heads": 6,
      "num_key_value_heads": 2, "head_dim": 12, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
      "max_position_embeddings": 64, "initializer_range": 0.05, "tie_word_embeddings": false,
      "hidden_act": "silu", "attention_bias": false})");
}

// Grouped heads with norms, softmax gates, no groups; then dense layers of plain grouped heads.
TEST_F(Parity, OfGroupedHeadsAndSoftmaxGates) {
  expect_parity(qwen3(), four_ranks_);
}
TEST_F(Parity, OfADenseModel) {
  Json c = qwen3();
  c["model_type"] = "llama";
  for (const char* key :
       {"moe_intermediate_size", "num_experts", "num_experts_per_tok", "norm_topk_prob"}) {
    c.erase(key);
  }
  c["num_key_value_heads"] = 1;
  expect_parity(c, one_rank_);
}

// With what is not kept for backward computed again.
TEST_F(Parity, WithRecomputation) {
  expect_parity(config(), four_ranks_ + "  recompute: [norms, up_projections, activations]\n");
}

// The embedding's table on two ranks, for MTP.
TEST_F(Parity, AcrossTheEndsOfAPipeline) {
  Json c = config();
  c["num_nextn_predict_layers"] = 1;
  expect_parity(c,
                "layout: {pp: 2, dp: 2, schedule: 1f1b}\n"
                "training:\n  micro_batches: 2\n  micro_batch_size: 1\n");
}

}  // namespace
}  // namespace rehearse
