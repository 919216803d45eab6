#pragma once
// The weights of one copy of a stage: two flat arenas, since dense weights and experts are reduced
// over different ranks, and where each parameter lies in them.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cost/layer.h"
#include "plan/plan.h"
#include "plan/routing/replicas.h"
#include "runtime/compute/compute.h"
#include "runtime/memory/flat_values.h"

namespace rehearse {

enum class Arena : uint8_t { kDense, kExpert };

struct Parameter {
  std::string name;  // in Hugging Face's terms: model.layers.3.self_attn.o_proj
  Arena arena = Arena::kDense;
  int64_t offset = 0;  // in the arena, elements
  int64_t rows = 1;
  int64_t columns = 0;
  bool is_gain = false;    // of a norm: starts at 1, is not decayed
  bool is_linear = false;  // whose products are in the recipe's format: not the router, not an end
  int64_t size() const { return rows * columns; }
};

// Indices into StageParameters::list.
using ParameterId = int32_t;

struct FfnIds {
  ParameterId gate_up = 0;  // [2 width, hidden], gate first
  ParameterId down = 0;     // [hidden, width]
};

struct LayerIds {
  ParameterId input_norm = 0;
  std::optional<ParameterId> q_a, q_a_norm;
  ParameterId q = 0;  // q_b_proj, or q_proj without compression
  ParameterId kv_a = 0, kv_a_norm = 0, kv_b = 0, o = 0;
  ParameterId qkv = 0;  // of grouped-query attention, instead of those before
  std::optional<ParameterId> q_head_norm, k_head_norm;
  ParameterId post_norm = 0;
  std::optional<FfnIds> dense, shared;
  std::optional<ParameterId> gate;
  std::vector<FfnIds> experts;  // of this rank, by slot

  // Of attention or the router.
  void set(Part part, ParameterId id);
};

// Of a multi-token-prediction module, beside its layer (report, section 2.2).
struct MtpIds {
  ParameterId embedding_norm = 0;  // enorm
  ParameterId hidden_norm = 0;     // hnorm
  // eh_proj: [hidden, 2 hidden], of [RMSNorm(embedding); RMSNorm(h)], the order of Hugging Face's
  // files; the report's equation 21 has them the other way round.
  ParameterId projection = 0;
  ParameterId head_norm = 0;  // shared_head.norm
};

// Which parameters a stage has on EP rank `ep_rank`, and where.
struct StageParameters {
  // placements: placements_of the plan.
  StageParameters(const Plan& plan,
                  int64_t stage,
                  int64_t ep_rank,
                  const std::vector<Placement>& placements);

  std::vector<Parameter> list;
  std::vector<LayerIds> layers;  // of the last stage with those of MTP modules, behind the others
  std::vector<MtpIds> mtp;
  // The last stage has an embedding of its own, for MTP modules, where the first one's is on other
  // ranks: the same values, whose gradients both sum.
  bool embedding_is_copy = false;
  std::optional<ParameterId> embedding, final_norm, head;
  int64_t dense_size = 0;
  int64_t expert_size = 0;

  int64_t arena_size(Arena arena) const {
    return arena == Arena::kDense ? dense_size : expert_size;
  }
};

// Values for every parameter of a stage: weights, or gradients.
class ParameterValues {
 public:
  // operands: of linears, where it is another type: copies that products read.
  ParameterValues(const StageParameters& where,
                  DType type,
                  const Encoding& operands,
                  Memory& memory);

  Array array(ParameterId id) {
    const Parameter& p = at(id);
    return arena(p.arena).array(p.offset, p.rows, p.columns);
  }
  ConstArray array(ParameterId id) const {
    const Parameter& p = at(id);
    return arena(p.arena).array(p.offset, p.rows, p.columns);
  }
  // As products read it; it follows from the values where encode_operands is called.
  ConstArray operand(ParameterId id) const {
    return operands_.empty() || !at(id).is_linear ? array(id) : ConstArray(copy_of(id));
  }
  void encode_operands(const Compute& compute, Arena a) const;
  Bytes operand_bytes() const { return Bytes(operands_.size() * element_bytes(operands_.type())); }
  // Of every network one matrix, such as &FfnIds::down.
  std::vector<ConstArray> operands(std::span<const FfnIds> of, ParameterId FfnIds::*which) const {
    std::vector<ConstArray> all;
    for (const FfnIds& ids : of) all.push_back(operand(ids.*which));
    return all;
  }
  std::vector<Array> arrays(std::span<const FfnIds> of, ParameterId FfnIds::*which) {
    std::vector<Array> all;
    for (const FfnIds& ids : of) all.push_back(array(ids.*which));
    return all;
  }
  FlatValues& arena(Arena a) { return a == Arena::kDense ? dense_ : expert_; }
  const FlatValues& arena(Arena a) const { return a == Arena::kDense ? dense_ : expert_; }

 private:
  const Parameter& at(ParameterId id) const { return where_->list[static_cast<size_t>(id)]; }

  Array copy_of(ParameterId id) const;

  const StageParameters* where_;
  FlatValues dense_, expert_;
  Encoding operand_type_;
  std::vector<int64_t> copies_;  // by parameter, bytes: where its copy begins
  FlatValues operands_;          // all copies
};

// A parameter's first values: of gains 1, of every other one normal with `std`, drawn from a stream
// of its own that depends on the seed and its name alone, so that any layout starts from the same
// numbers.
std::vector<float> first_values(const Parameter& p, int64_t seed, double std);

}  // namespace rehearse
