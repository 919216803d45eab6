#pragma once
// One layer of a model as its matrix products, attention core and memory streams, counted once:
// parameters, flops, host kernel calls, GPU work, what is kept for backward, and the runtime's
// weights all follow from this list.
// Source: DeepSeek-V3 technical report, section 2.1 (MLA: equations 1 to 11; MoE: 12 to 16).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/units.h"
#include "cost/architecture.h"

namespace rehearse {

// What a weight of a layer is for.
enum class Part : uint8_t {
  kInputNorm,
  kQueryDown,
  kQueryNorm,
  kQueryUp,  // from the compressed query
  kQuery,    // the whole projection, where queries are not compressed
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
// expert without its number. Gate and up projections are one matrix here, gate first.
std::string_view name_of(Part part);
// "mlp.experts.3.down_proj". REQUIRES: a weight of experts.
std::string expert_name(Part part, int64_t expert);

// Which rows a product multiplies, and with them who holds its weights: those of experts are shared
// out over the EP ranks, all others stand on every rank of the stage.
enum class Rows : uint8_t {
  kTokens,   // of this rank
  kContext,  // of the whole sequence, where several ranks share one
  kExperts,  // tokens that chose the experts here
};

// How a product of attention stands in its order: GPUs run both compressions before what follows
// from them, and compute expansions again in backward (report, section 3.2.3).
enum class Role : uint8_t { kCompress, kExpand, kOutput, kOther };

// y[rows, out] = x[rows, in] w[out, in]^T
struct Linear {
  Part part = Part::kOutput;
  int64_t out = 0, in = 0;
  Rows rows = Rows::kTokens;
  Role role = Role::kOther;
  int64_t weights() const { return out * in; }
};
// RMSNorm of a token's `width` values.
struct Norm {
  Part part = Part::kInputNorm;
  int64_t width = 0;
};
// Rotation of `width` values of each of `heads`.
struct Rope {
  int64_t heads = 0, width = 0;
};
// softmax(Q K^T) V; qk, v: widths per head.
struct Core {
  int64_t heads = 0, qk = 0, v = 0;
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

// down(SwiGLU(gate_up(x)))
struct Ffn {
  Linear gate_up, down;
  int64_t width = 0;  // between the two
};

struct Layer {
  std::vector<Step> attention;  // up to the FFN's input, in the order of the data
  Core core;                    // the one in `attention`
  Rope rope;                    // the one of the queries
  int64_t context_width = 0;    // of a token: what ranks that share a sequence gather of the others
  std::optional<Ffn> dense, shared, experts;  // experts: one of them

  bool moe() const { return experts.has_value(); }
  // Of attention, the router excepted.
  std::vector<Linear> projections() const;
  std::vector<Linear> projections(Role role) const;
  // Widths of all norms, without `but`.
  int64_t norm_width(std::optional<Part> but = {}) const;
};

// A model's two kinds of layer, made once where they are asked for often.
struct Layers {
  explicit Layers(const Architecture& a);
  Architecture architecture;
  Layer dense, moe;  // moe: as dense, where the model has no experts
  const Layer& of(bool is_moe) const { return is_moe ? moe : dense; }
  const Layer& at(int64_t layer) const { return of(architecture.is_moe(layer)); }
};

// Weights of a layer's parts, and of the model's ends, in elements.
struct ParameterCounts {
  int64_t attention = 0;       // projections and norms, both RMSNorms of the layer
  int64_t dense_mlp = 0;       // FFN of a dense layer
  int64_t gate = 0;            // router weight (its bias is not a trained parameter)
  int64_t shared = 0;          // all shared experts
  int64_t expert = 0;          // one routed expert
  int64_t embedding = 0;       // token embedding
  int64_t head = 0;            // output projection and final norm
  int64_t mtp_projection = 0;  // M and its two norms and the final one, of one MTP module
};
ParameterCounts parameter_counts(const Architecture& a);

// All weights of the model, MTP modules not counted.
int64_t total_parameters(const Architecture& a);
// The weights that one token visits.
int64_t active_parameters(const Architecture& a);

// Forward flops of one token in `layer` at sequences of `length` tokens: matrix products and
// attention alone. causal: attention over the (n+1)/2 keys a token sees on average, else all n.
Flops layer_forward_flops(const Architecture& a, int64_t layer, int64_t length, bool causal);

// Flops of one token's training step, layers and head, no MTP, no recomputation: three times the
// forward pass.
Flops training_flops_per_token(const Architecture& a, int64_t length, bool causal);

// Elements that one token leaves behind in a layer of this project's runtime between its forward
// and its weight gradients: everything kept, nothing recomputed. active: experts per token.
int64_t kept_elements(const Layer& layer, int64_t hidden, int64_t active);

}  // namespace rehearse
