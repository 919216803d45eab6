#pragma once
// Expert load of a simulation: the routing counts of every layer, micro-batch and EP group,
// balanced or drawn from a stated skew. Balanced is, on GPUs, what skews tend to (expected_load);
// on cores the pattern that the runtime can be told to choose by (balanced_choice).

#include <array>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "plan/plan.h"
#include "plan/routing/counts.h"
#include "plan/routing/placement.h"
#include "plan/routing/recorded_step.h"

namespace rehearse {

// Synthetic counts (plan key `expert_load`): every expert has a popularity, log-normal of standard
// deviation `skew`; a token's scores are log popularity plus Gumbel noise, and its experts are
// chosen as the gate does (groups by the sum of their two best scores, then the best experts of the
// kept groups; report, equations 12 to 16). A library of ranks' micro-batches is drawn token by
// token; every rank of every all-to-all takes one of them, and each layer's hot experts stand
// elsewhere: nodes and positions are turned by an amount that depends on the layer.
//
// A step that is replayed (ReplayedRouting): where it has as many micro-batches, of as many tokens,
// as the plan's step, each rank has its own; else as recorded counts below.
//
// Recorded counts: the library of a layer are the recorded micro-batches of that layer (the MTP
// module's: the last's), nothing is turned, and a micro-batch of another length counts in
// proportion.
struct ReplayedRouting {
  const RecordedStep* step = nullptr;
  std::vector<Placement> placements;  // of each recorded layer, or one for all; none: in order
  ReplicaChoice replicas = ReplicaChoice::kInTurn;
};

// Whether a step so recorded is one of the plan's: each rank's own micro-batches are there.
bool replays_exactly(const Plan& plan, const RoutingShape& recorded);

class ExpertLoad {
 public:
  // replay: instead of what the plan says. Throws InputError when recorded routing is not of a
  // model like the plan's.
  explicit ExpertLoad(const Plan& plan, const ReplayedRouting* replay = nullptr);

  // Until the next call. group: data rank / EP.
  const GroupLoad& of(int32_t layer, int32_t micro_batch, int64_t group);
  // Whether all layers, micro-batches and groups have the same counts.
  bool uniform() const { return spec_.varies == LoadVaries::kNever; }
  // Whether every rank has the micro-batches that were recorded of it.
  bool exact() const { return exact_; }
  const ExpertGroup& group() const { return group_; }

 private:
  // One rank's micro-batch.
  struct Source {
    std::vector<int32_t> to_node, to_rank, rows;
  };
  void draw_library(const Plan& plan);
  void read_library(const Plan& plan);
  void replay_library(const Plan& plan, const ReplayedRouting& replay);
  Source count(const Plan& plan, std::span<const int32_t> choices, int64_t tokens) const;
  // micro_batch, group: of exact replay.
  GroupLoad make(
      int64_t id, int32_t layer, int64_t micro_batch, int64_t group, uint64_t seed) const;

  ExpertLoadSpec spec_;
  ExpertGroup group_;  // its experts are slots, where experts are placed
  Layout layout_;
  int64_t micro_batches_ = 0;
  bool exact_ = false;
  int64_t experts_ = 0;
  int32_t first_layer_ = 0;  // with experts
  Architecture architecture_;
  // Of each layer, or one for all.
  std::shared_ptr<const std::vector<std::vector<Source>>> library_;
  std::unordered_map<int64_t, GroupLoad> known_;  // never iterated
  std::deque<int64_t> order_;                     // of known_, oldest first
};

}  // namespace rehearse
