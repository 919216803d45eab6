#pragma once
// One layer of a model as its matrix products, attention core and memory streams, counted once:
// parameters, flops, host kernel calls, GPU work, what is kept for backward, and the runtime's
// weights all follow from this list.
// Sources: DeepSeek-V3 technical report, section 2.1 (MLA: equations 1 to 11; MoE: 12 to 16);
// Ainslie et al. 2023 (arXiv 2305.13245: grouped-query attention); Radford et al. 2019 (GPT-2);
// Shoeybi et al. 2019 (arXiv 1909.08053: columns and rows of matrices over ranks), Korthikanti et
// al. 2022 (arXiv 2205.05198: sequence parallelism).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/units.h"
#include "cost/architecture.h"
#include "cost/recompute.h"

namespace rehearse {

// What a weight of a layer is for.
enum class Part : uint8_t {
  kInputNorm,
  kQueryDown,
  kQueryNorm,
  kQueryUp,  // from the compressed query
  kQuery,    // the whole projection, where queries are not compressed
  kQkv,      // queries, keys and values of grouped-query attention, in this order
  kQueryHeadNorm,
  kKeyHeadNorm,
  kKeyValueDown,
  kKeyValueNorm,
  kKeyValueUp,
  kOutput,
  kPostNorm,  // before the FFN
  kRouter,
  kDenseGateUp,
  kDenseDown,
  kSharedGateUp,
  kSharedDown,
  kExpertGateUp,
  kExpertDown,
};
// As Hugging Face's checkpoints call it within model.layers.N, such as "self_attn.o_proj"; of an
// expert without its number. Gate and up projections are one matrix here, gate first, and so are
// those of queries, keys and values.
std::string_view name_of(Part part);
// "mlp.experts.3.down_proj". REQUIRES: a weight of experts.
std::string expert_name(Part part, int64_t expert);

// Which rows a product multiplies, and with them who holds its weights: those of experts are shared
// out over the EP ranks, all others stand on every rank of the stage, or a part of them on every
// tensor-parallel rank.
enum class Rows : uint8_t {
  kTokens,    // of this rank
  kGathered,  // of all tensor-parallel ranks, each with a part of the matrix
  kContext,   // of the whole sequence, where several ranks share one
  kExperts,   // tokens that chose the experts here
};

// How a product of attention stands in its order: GPUs run what reads the layer's input before what
// follows from it, and may compute expansions again in backward (report, section 3.2.3).
enum class Role : uint8_t {
  kEnter,   // from the layer's input: compressions, or queries, keys and values; kept for backward
  kExpand,  // from the compressions
  kOutput,
  kOther,
};

// y[rows, out] = x[rows, in] w[out, in]^T + bias[out]
struct Linear {
  Part part = Part::kOutput;
  int64_t out = 0, in = 0;
  Rows rows = Rows::kTokens;
  Role role = Role::kOther;
  bool bias = false;
  int64_t weights() const { return out * in; }
  int64_t parameters() const { return weights() + (bias ? out : 0); }
};
// Of a token's `width` values, or those of each of `heads`, which have one gain.
struct Norm {
  Part part = Part::kInputNorm;
  int64_t width = 0;
  NormKind kind = NormKind::kRms;
  int64_t heads = 0;  // 0: of the token, on its own rank; else behind a product with their rows
  int64_t elements() const { return width * (heads == 0 ? 1 : heads); }
  int64_t parameters() const { return width * (kind == NormKind::kLayer ? 2 : 1); }
};
// Rotation of `width` values of each of `heads`.
struct Rope {
  int64_t heads = 0, width = 0;
};
// softmax(Q K^T) V; qk, v: widths per head.
struct Core {
  int64_t heads = 0, qk = 0, v = 0;
  int64_t kv_heads = 0;           // heads share them where these are fewer
  std::optional<int64_t> window;  // keys that a query sees, itself counted
  // Keys that a query of a sequence of `length` tokens sees: the mean over its queries, of which
  // each sees itself and what is before it, or all (causal: false).
  double keys(int64_t length, bool causal) const;
};
// The layer's input added.
struct Residual {
  int64_t width = 0;
};
// Choice of experts from the router's product.
struct Gate {
  int64_t experts = 0, active = 0;
};
using Step = std::variant<Norm, Linear, Rope, Core, Residual, Gate>;

// down(SwiGLU(gate_up(x))), or down(GeLU(up(x))).
struct Ffn {
  Linear gate_up, down;
  int64_t width = 0;  // between the two
  bool gated = true;
  int64_t matrices() const { return gated ? 3 : 2; }
  int64_t parameters() const { return gate_up.parameters() + down.parameters(); }
};

struct Layer {
  std::vector<Step> attention;  // up to the FFN's input, in the order of the data
  Core core;                    // the one in `attention`
  Rope rope;                    // the one of the queries
  int64_t sinks = 0;            // learned logits of heads
  int64_t context_width = 0;    // of a token: what ranks that share a sequence gather of the others
  int64_t tensor_width = 0;     // what tensor-parallel ranks gather of the others before attention
  std::optional<Ffn> dense, shared, experts;  // experts: one of them

  bool moe() const { return experts.has_value(); }
  // Of attention, the router excepted.
  std::vector<Linear> projections() const;
  std::vector<Linear> projections(Role role) const;
  // Widths of all norms of tokens, without `but`; and of those of heads.
  int64_t norm_width(std::optional<Part> but = {}) const;
  int64_t head_norm_width() const;
  // Of attention, with norms; the router's apart.
  int64_t attention_parameters() const;
  int64_t router_parameters() const;
};

// Over how many ranks matrices are cut: by their columns those that widen, by their rows those that
// narrow (Shoeybi et al. 2019, section 3).
struct Shards {
  int64_t tp = 1;   // heads of attention; FFNs of dense layers and shared experts
  int64_t etp = 1;  // each routed expert
  bool operator==(const Shards&) const = default;
};

// A model's kinds of layer, made once where they are asked for often: one rank's part of each.
// REQUIRES: shards that divide heads, key-value heads and widths (plan/legal.h).
struct Layers {
  explicit Layers(const Architecture& a, const Shards& shards = {});
  Architecture architecture;
  // With experts (as dense, where the model has none), and with a window.
  const Layer& of(bool moe, bool windowed = false) const {
    return kinds[(moe ? 1 : 0) + (windowed ? 2 : 0)];
  }
  const Layer& at(int64_t layer) const {
    return of(architecture.is_moe(layer), architecture.is_windowed(layer));
  }
  std::vector<Layer> kinds;
};

// Weights of a layer's parts, and of the model's ends, in elements.
struct ParameterCounts {
  int64_t attention = 0;       // projections, norms and sinks, both norms of the layer
  int64_t dense_mlp = 0;       // FFN of a dense layer
  int64_t gate = 0;            // router (its bias for choosing is not a trained parameter)
  int64_t shared = 0;          // all shared experts
  int64_t expert = 0;          // one routed expert
  int64_t embedding = 0;       // of tokens, and of positions where these are learned
  int64_t head = 0;            // output projection, unless it is the embedding's, and final norm
  int64_t mtp_projection = 0;  // M and its two norms and the final one, of one MTP module
};
// Of one rank: of the model's ends it holds a part of the vocabulary.
ParameterCounts parameter_counts(const Architecture& a, const Shards& shards = {});

// All weights of the model, MTP modules not counted; and what those add, which share the embedding
// and the head.
int64_t total_parameters(const Architecture& a);
int64_t mtp_parameters(const Architecture& a);
// The weights that one token visits.
int64_t active_parameters(const Architecture& a);

// Forward flops of one token in `layer` at sequences of `length` tokens: matrix products and
// attention alone. causal: attention over the (n+1)/2 keys a token sees on average, else all n.
Flops layer_forward_flops(const Architecture& a, int64_t layer, int64_t length, bool causal);

// Flops of one token's training step, layers and head, no MTP, no recomputation: three times the
// forward pass.
Flops training_flops_per_token(const Architecture& a, int64_t length, bool causal);

// Formats of what this project's runtime holds.
struct ElementFormat {
  double element = 4;   // bytes
  bool scaled = false;  // with an FP32 scale for every 128
  // Of a row of `width` elements.
  int64_t bytes(int64_t width) const;
  bool operator==(const ElementFormat&) const = default;
};
struct RuntimeFormats {
  ElementFormat kept;               // between ops
  ElementFormat operand, gradient;  // what products alone read, and gradients of what they made
  ElementFormat swiglu, core;       // SwiGLU's inputs and the core's output, for backward
  ElementFormat tokens_sent, gradients_sent;  // to experts
  bool widens = true;                         // kernels take narrow operands as FP32 alone
  // Whether operands of kernels are widened to FP32.
  bool narrow() const { return widens && kept.element < 4; }
};

// Bytes of one token in a layer of this project's runtime, experts balanced.
struct RuntimeBytes {
  int64_t kept = 0;      // between its forward and its backward
  int64_t backward = 0;  // besides, at most, while its backward runs to the end of these
  // Besides, where the weight gradients come later: what they multiply; and at most, besides that,
  // while attention's backward runs.
  int64_t waiting = 0;
  int64_t ending = 0;
};
// active: rows of experts per token. ranks: that a token's experts stand on; 0: all are here.
RuntimeBytes runtime_bytes(const Layer& layer,
                           int64_t hidden,
                           int64_t active,
                           int64_t ranks,
                           const Recompute& again,
                           const RuntimeFormats& formats);
// Of a linear's weights as codes with a scale per block of 128 x 128, in memory of their own.
int64_t fp8_block_bytes(const Linear& linear);

}  // namespace rehearse
