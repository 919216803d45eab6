#pragma once
// The Program: what every rank does in one training step, as ops with lanes and dependencies. It is
// built from templates of cells, the schedule and the layout, and held as ONE replica of the
// pipeline: the DP replicas run the same ops, so op `id` of data rank d is global op
// d x ops().size() + id, and only collectives (Group) tie replicas together. A DeepSeek-V3 step on
// 2048 GPUs is 85 thousand ops here, 11 million when materialized.
//
// Both executors take a Program and nothing else about order: an op may start when its dependencies
// are done and every earlier op of its lane is.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cost/layer_set.h"
#include "plan/layout.h"
#include "plan/plan.h"
#include "plan/program/op.h"
#include "plan/program/schedule.h"

namespace rehearse {

using OpId = int64_t;

enum class Granularity : uint8_t {
  kOp,    // attn, dispatch, mlp, combine, ... of every layer
  kCell,  // one op per cell, whose sends wait for the whole cell: the setting of bubble formulas
};

enum class Mode : uint8_t {
  kTrain,
  kForward,
  kPair,  // one overlapped pair of all layers, without embedding, head and step's end (PP1)
};

inline constexpr NameTable kGranularities{
    std::to_array<Named<Granularity>>({{Granularity::kOp, "op"}, {Granularity::kCell, "cell"}})};
static_assert(kGranularities.complete());
inline constexpr NameTable kModes{std::to_array<Named<Mode>>(
    {{Mode::kTrain, "train"}, {Mode::kForward, "forward"}, {Mode::kPair, "pair"}})};
static_assert(kModes.complete());

class Program {
 public:
  struct Spec {
    Layout layout;                  // with layers_per_stage filled in
    int64_t micro_batches = 1;      // per data-parallel rank
    LayerSet dense;                 // layers without experts, those of MTP modules counted
    int64_t mtp = 0;                // multi-token-prediction modules behind the last stage
    bool expert_bias = true;        // expert biases are updated at the end of the step
    bool shared_experts = false;    // whose matrices TP ranks share; said where tp > 1 alone
    bool recompute_layers = false;  // each layer's forward runs again before its backward
    // The first stage's rank and the last's each hold the embedding's table, for a head that is
    // that table or for MTP modules' tokens: where both ends differ.
    bool tied_embeddings = false;
    Granularity granularity = Granularity::kOp;
    Mode mode = Mode::kTrain;
    bool operator==(const Spec&) const = default;
  };

  // REQUIRES: a spec that plan/legal.h has nothing against. Throws InputError beyond kMostOps.
  static Program build(const Spec& spec);

  // Assembles a Program from its parts, as the parser does. dependencies[i] are op i's.
  static Program assemble(Spec spec,
                          std::vector<RankSchedule> schedules,
                          std::vector<Op> ops,
                          const std::vector<std::vector<int32_t>>& dependencies);

  const Spec& spec() const { return spec_; }
  const Layout& layout() const { return spec_.layout; }
  // The ops of one replica, by pipeline rank; within a rank every lane's order is the order of ids.
  const std::vector<Op>& ops() const { return ops_; }
  // Ops of the same replica that must be done before `id` starts.
  std::span<const int32_t> dependencies(int32_t id) const;
  // The inverse: ops that wait for `id`.
  std::span<const int32_t> dependents(int32_t id) const;
  std::span<const int32_t> lane(int32_t pp_rank, Lane lane) const;
  const RankSchedule& schedule(int32_t pp_rank) const {
    return schedules_[static_cast<size_t>(pp_rank)];
  }

  int64_t replicas() const { return spec_.layout.stage_ranks(); }
  int64_t global_size() const { return replicas() * static_cast<int64_t>(ops_.size()); }
  OpId global_id(int32_t id, int32_t data_rank) const {
    return data_rank * static_cast<int64_t>(ops_.size()) + id;
  }
  const Op& op(OpId global) const {
    return ops_[static_cast<size_t>(global % static_cast<int64_t>(ops_.size()))];
  }
  int32_t data_rank(OpId global) const {
    return static_cast<int32_t>(global / static_cast<int64_t>(ops_.size()));
  }
  int64_t global_rank(Place p) const { return spec_.layout.rank_of(p); }
  int64_t global_rank(OpId global) const {
    return global_rank({op(global).pp_rank, data_rank(global)});
  }

  // The ranks that take part in a collective op of data rank `data_rank`, in ascending order; just
  // the op's own rank when it is not a collective.
  std::vector<Place> members(const Op& op, int32_t data_rank) const;
  // The ops of one collective, one per member, in the order of members().
  std::vector<OpId> collective(OpId global) const;

  bool operator==(const Program& other) const;

 private:
  Spec spec_;
  std::vector<RankSchedule> schedules_;  // per pipeline rank
  std::vector<Op> ops_;
  std::vector<int32_t> dependency_offsets_, dependencies_;
  std::vector<int32_t> dependent_offsets_, dependents_;
  std::vector<int32_t> lane_offsets_, lane_ops_;  // by pipeline rank x lane
};

// What a plan's ranks do in one step.
Program::Spec program_spec(const Plan& plan, Mode mode = Mode::kTrain);
// Throws InputError where one replica of the pipeline has more ops than kMostOps.
Program build_program(const Plan& plan, Mode mode = Mode::kTrain);
// Of one replica: they take some 220 bytes each, 4.4 GB in all.
constexpr int64_t kMostOps = 20'000'000;

// The plain list over all replicas: every op with its global id, rank and dependencies.
struct MaterializedOp {
  OpId id = 0;
  int64_t rank = 0;
  Op op;
  std::vector<OpId> dependencies;
};
std::vector<MaterializedOp> materialize(const Program& program);

// The text form: header, each rank's cells, each cell's ops with their dependencies.
std::string print_program(const Program& program);
// Throws InputError with `path`, line and what would be right. parse_program(print_program(p)) ==
// p.
Program parse_program(std::string_view text, const std::string& path);

// That a Program read from a file is what its head says: every cell of the schedule once on every
// rank, in every cell the ops of its layers, and every op waiting for what it needs. Order is free,
// and ops may wait for more. Throws ScheduleError naming rank, cell and op.
void require_whole(const Program& program);

// Proves that the Program can run: sends and receives pair up, all members of a collective enqueue
// their group's collectives in the same order, and no op waits for itself under lane order with
// buffered sends. Throws ScheduleError that names, for every stuck rank, its next op and what that
// waits for.
void validate(const Program& program);

}  // namespace rehearse
