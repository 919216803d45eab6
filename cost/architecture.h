#pragma once
// The dimensions of a DeepSeek-V3-style model: what every flop and byte formula is a function of.
// Source: DeepSeek-V3 technical report, sections 2.1 and 4.2.

#include <cstdint>
#include <optional>

namespace rehearse {

enum class ScoreFunction : uint8_t { kSigmoid, kSoftmax };

struct Architecture {
  int64_t vocabulary = 0;
  int64_t hidden = 0;               // model width
  int64_t layers = 0;               // transformer layers, MTP module not counted
  int64_t dense_layers = 0;         // the leading layers with a dense FFN
  int64_t dense_intermediate = 0;   // FFN width of those
  int64_t expert_intermediate = 0;  // FFN width of one expert, routed or shared
  int64_t experts = 0;              // routed experts of one MoE layer
  int64_t shared_experts = 0;       // experts every token visits
  int64_t active_experts = 0;       // routed experts per token (top-k)
  int64_t groups = 1;               // expert groups of the group-limited choice
  int64_t kept_groups = 1;          // groups a token may choose from
  ScoreFunction score = ScoreFunction::kSigmoid;
  bool normalize_weights = true;  // chosen scores are divided by their sum
  bool expert_bias = true;        // per-expert bias, for choosing only
  double routed_scaling = 1.0;    // factor on the routed weights
  int64_t heads = 0;
  std::optional<int64_t> q_lora;  // query compression width; none: one full projection
  int64_t kv_lora = 0;            // key-value compression width
  int64_t qk_nope = 0;            // per head: query/key width without position
  int64_t qk_rope = 0;            // per head: query/key width with RoPE; the key's is shared
  int64_t v_head = 0;             // per head: value width
  double norm_eps = 1e-6;
  double rope_theta = 10000;
  int64_t mtp_depth = 0;  // multi-token prediction modules

  int64_t qk_head() const { return qk_nope + qk_rope; }
  bool is_moe(int64_t layer) const { return layer >= dense_layers; }
  bool operator==(const Architecture&) const = default;
};

}  // namespace rehearse
