#pragma once
// What a cluster of GPUs is to one simulation: its routes, the links of every EP group, which ranks
// are alike, and how collectives run.

#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "plan/program/stand_ins.h"
#include "sim/expert_load.h"
#include "sim/network/collective.h"
#include "sim/network/exchange.h"
#include "sim/network/link_load.h"
#include "sim/network/network.h"
#include "sim/price/op_costs.h"

namespace rehearse {

// The ranks of a group within `rank`'s stage, and how they stand on nodes.
struct GroupPlace {
  GroupPlace(const Plan& plan, const RankGroup& group, int64_t rank);
  RankGroup group;
  int64_t first = 0;     // rank
  int64_t per_node = 1;  // of them on each node, where that is the same; else one by one
  int64_t nodes = 1;
  // At the same position on the group's next node.
  int64_t next(int64_t rank) const {
    const int64_t at = (rank - first) / group.stride;
    return group.member(first, (at + per_node) % group.size);
  }
};

// The ranks of a collective that ties islands together, in the order in which it goes round.
struct CollectiveRing {
  CollectiveRing() = default;
  CollectiveRing(const Plan& plan, const Program& program, const std::vector<OpId>& ops);
  // At the same position on the ring's next node.
  int64_t next(int64_t rank) const;

  std::vector<int64_t> ranks;  // ascending
  int64_t per_node = 1;        // of them that are neighbours, where all nodes have as many; else 1
};

// What the work of all islands has in common, made once before they run.
struct GpuWorld {
  GpuWorld(const Plan& plan, const Program& program, const OpCosts& costs);

  const Layout& layout() const { return plan.layout; }

  const Plan& plan;
  const Program& program;
  const OpCosts& costs;
  std::optional<FabricRoutes> fabric;
  // Some link between switches can be a bottleneck to what the plan sends, or ranks use each
  // other's NICs.
  bool shared_links = false;
  bool memoise = true;           // identical all-to-alls that nothing disturbs are worked out once
  std::vector<int32_t> in_step;  // classes_in_step, where equal flows may be taken for one
  StandIns ranks;                // simulated; every one, unless it is set to fewer
  ExpertGroup group;             // of every EP group, but for its ranks
  // Links of a group: latencies between its nodes, ports of its members. Groups of equal links
  // share answers.
  struct GroupLinks {
    std::vector<Duration> latencies;
    ExchangePorts ports;
    bool operator==(const GroupLinks&) const = default;
  };
  std::vector<GroupLinks> links;               // distinct ones
  std::vector<std::vector<int32_t>> links_of;  // by pipeline rank and group

  // Makes all nodes of all groups as far from each other as those that are farthest.
  void level_routes();

  // Of all-to-alls between ranks with links[links_index], all of their group being simulated.
  ExchangeTerms exchange_terms(bool dispatch, Bytes token, int32_t links_index) const;

  // How a collective of shared work runs among the ranks of its group: what each sends.
  struct SharedPlan {
    Bytes node, network;
    Duration latency;
  };
  // rank: of a member; bytes: that every member of one ring over all would send.
  const SharedPlan& shared_plan(const Op& op, int64_t rank, Bytes bytes);
  void use_measured(const Op& op, int64_t members, SharedPlan& shared) const;
  int64_t next_of_shared(const Op& op, int64_t rank) const;

  // Collectives that tie islands together.
  struct Collective {
    std::vector<OpId> members;  // simulated ones
    CollectiveRing ring;        // of all members
    size_t missing = 0;         // parts
    CollectivePlan plan;
  };
  std::unordered_map<int64_t, Collective> collectives;  // never iterated
  std::vector<class GpuWork*> works;                    // by island
  LinkLoad load;                                        // of ranks chosen for it

 private:
  // Of each group and rank, which of the ways that such groups stand on nodes is its.
  struct Standing {
    int64_t nodes = 1, per_node = 1;
    bool operator==(const Standing&) const = default;
  };
  std::vector<Standing> standings_;
  std::map<Group, std::vector<int8_t>> standing_of_;  // by global rank
  // By standing, kind, group and bytes.
  std::map<std::tuple<int8_t, OpKind, Group, int64_t>, SharedPlan> shared_plans_;
  std::mutex shared_plans_lock_;  // islands run on several threads
};

}  // namespace rehearse
