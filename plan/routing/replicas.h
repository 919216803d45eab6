#pragma once
// A Placement: which ranks of an EP group hold which experts, some of them several times. A slot is
// room for one expert; a rank's slots stand one behind the other, so that slot s is on rank
// s / slots. Files: JSON, as vLLM writes its maps: [slot] -> expert, or a list of those, one per
// layer with experts.

#include <cstdint>
#include <string>
#include <vector>

namespace rehearse {

struct Placement {
  int64_t experts = 0;
  int64_t slots = 0;               // of a rank
  std::vector<int32_t> expert_of;  // [ranks x slots]

  int64_t ranks() const { return static_cast<int64_t>(expert_of.size()) / slots; }
  int64_t rank_of(int64_t slot) const { return slot / slots; }
  bool redundant() const { return static_cast<int64_t>(expert_of.size()) > experts; }
  // The slots of every expert, ascending.
  std::vector<std::vector<int32_t>> slots_of() const;
  bool operator==(const Placement&) const = default;

  // Expert e on rank e / (experts / ranks): what plans have without a placement.
  static Placement in_order(int64_t experts, int64_t ranks);
};

// Empty when every expert has a slot and every slot an expert; else what is wrong.
std::string why_not(const Placement& placement);

// One per layer, or one for all. Throws InputError naming file and place: for a map that is no
// JSON, of the wrong length, with experts that are none, or without one.
std::vector<Placement> read_placement(const std::string& path, int64_t experts, int64_t ranks);
std::string print_placement(const std::vector<Placement>& layers);

// Tokens of each rank when an expert's are spread evenly over its replicas.
std::vector<double> rank_loads(const Placement& placement, const std::vector<double>& expert_loads);
// The largest over the mean.
double imbalance(const std::vector<double>& loads);

// How a placement is found.
enum class PlacementPolicy : uint8_t {
  kInOrder,       // experts by number
  kPublished,     // DeepSeek's (EPLB): hierarchical where nodes divide groups, else global
  kHierarchical,  // ours: groups stay whole on a node, as a group limit wants it
  kGlobal,        // ours: any expert on any rank
};

// What experts are placed on.
struct PlacementShape {
  int64_t ranks = 1, slots = 1;  // slots of a rank
  int64_t nodes = 1;             // divides ranks
  int64_t groups = 1;            // of experts
};

// REQUIRES: ranks x slots >= experts, of equal groups.
Placement published_placement(const std::vector<double>& loads, const PlacementShape& shape);
// Ours, by bounded work. exact: small cases are solved to the optimum (of even spreading).
Placement balanced_placement(const std::vector<double>& loads, const PlacementShape& shape);
Placement hierarchical_placement(const std::vector<double>& loads, const PlacementShape& shape);
Placement placement_by(PlacementPolicy policy,
                       const std::vector<double>& loads,
                       const PlacementShape& shape);

// No placement's fullest rank has less, evenly spread: the mean rank's; the hottest replica there
// must be, with the smallest companions that such replicas leave.
struct PlacementBound {
  double mean = 0;
  double hottest = 0;  // of a replica
  double with_companions = 0;
};
PlacementBound placement_bound(const std::vector<double>& loads, const PlacementShape& shape);

// How the tokens of one micro-batch are best spread over replicas: shares of every slot, and the
// fullest rank's tokens: no spreading has less. A linear program (Clp).
struct TokenSpread {
  std::vector<double> slot_loads;  // [ranks x slots], tokens
  double fullest = 0;
};
TokenSpread best_spread(const Placement& placement, const std::vector<double>& expert_loads);

}  // namespace rehearse
