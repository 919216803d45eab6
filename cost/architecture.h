#pragma once
// The dimensions of a transformer, from DeepSeek-V3's to GPT's: what every flop and byte formula is
// a function of.
// Sources: DeepSeek-V3 technical report, sections 2.1 and 4.2 (MLA, experts); Ainslie et al. 2023
// (arXiv 2305.13245: grouped-query attention); Radford et al. 2019 (GPT-2); Hugging Face
// transformers' configurations for what each family of models varies.

#include <cstdint>
#include <optional>

#include "cost/layer_set.h"

namespace rehearse {

enum class ScoreFunction : uint8_t { kSigmoid, kSoftmax };

enum class AttentionKind : uint8_t {
  kLatent,   // MLA: queries, keys and values through a compression
  kGrouped,  // multi-head, or groups of query heads that share a key-value head
};

// Norms of queries and keys between their projections and the core.
enum class HeadNorm : uint8_t {
  kNone,
  kPerHead,  // each head's, all with the same gain (Qwen3)
  kWhole,    // over all heads together (MiniMax-M2)
};

enum class NormKind : uint8_t {
  kRms,    // a gain
  kLayer,  // LayerNorm: a gain and a bias
};

enum class MlpKind : uint8_t {
  kGated,  // down(SiLU(gate(x)) up(x)): three matrices
  kGelu,   // down(GeLU(up(x))): two
};

struct Architecture {
  int64_t vocabulary = 0;
  int64_t hidden = 0;               // model width
  int64_t layers = 0;               // transformer layers, MTP modules not counted
  LayerSet dense;                   // those with a dense FFN, not experts
  int64_t dense_intermediate = 0;   // FFN width of those
  int64_t expert_intermediate = 0;  // FFN width of one expert, routed or shared
  int64_t experts = 0;              // routed experts of one MoE layer; 0: no layer has any
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
  int64_t qk_rope = 0;            // per head: query/key width with RoPE; MLA's key's is shared
  int64_t v_head = 0;             // per head: value width
  double norm_eps = 1e-6;
  double rope_theta = 10000;
  int64_t mtp_depth = 0;  // multi-token prediction modules

  // What DeepSeek's models have no choice of.
  AttentionKind attention = AttentionKind::kLatent;
  int64_t kv_heads = 0;  // of grouped-query attention; divides heads
  HeadNorm head_norm = HeadNorm::kNone;
  bool sinks = false;             // a learned logit per head that takes attention from all keys
  std::optional<int64_t> window;  // keys that a query of `windowed` layers sees, itself counted
  LayerSet windowed;
  bool qkv_bias = false, output_bias = false;  // of attention's projections
  NormKind norm = NormKind::kRms;
  MlpKind mlp = MlpKind::kGated;  // of dense layers and of experts
  bool mlp_bias = false;
  bool router_bias = false;      // in the router's product, trained as any weight
  int64_t positions = 0;         // learned position embeddings; 0: none
  bool tied_embeddings = false;  // the head is the embedding's table
  bool normalized_head = false;  // each row of the head's table is scaled to length one
  double dropout = 0;            // probability; of attention's weights, outputs and embeddings

  int64_t qk_head() const { return qk_nope + qk_rope; }
  bool is_moe(int64_t layer) const { return experts > 0 && !dense.contains(layer); }
  bool is_windowed(int64_t layer) const { return window && windowed.contains(layer); }
  // Of the layers with experts: the first, the last, and how many are before one. REQUIRES: some.
  int64_t first_moe_layer() const {
    int64_t layer = 0;
    while (!is_moe(layer)) ++layer;
    return layer;
  }
  int64_t last_moe_layer() const {
    int64_t layer = layers - 1;
    while (!is_moe(layer)) --layer;
    return layer;
  }
  int64_t moe_layers_before(int64_t layer) const { return layer - dense.count_below(layer); }
  int64_t dense_layers() const { return experts > 0 ? dense.count_below(layers) : layers; }
  bool operator==(const Architecture&) const = default;
};

}  // namespace rehearse
