#pragma once
// What a cluster of GPUs is to one simulation: its routes, the links of every EP group, which ranks
// are alike, and how collectives run.

#include <optional>
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

// The ranks that share a sequence with `rank`: a run of neighbours.
struct ContextGroup {
  ContextGroup(const Plan& plan, int64_t rank);
  int64_t first = 0;
  int64_t size = 1;
  int64_t per_node = 1;  // of them on each node, where that is the same; else one by one
  int64_t nodes = 1;
  // At the same position on the group's next node.
  int64_t next(int64_t rank) const { return first + (rank - first + per_node) % size; }
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
  bool memoise = true;  // identical all-to-alls that nothing disturbs are worked out once
  StandIns ranks;       // simulated; every one, unless it is set to fewer
  ExpertGroup group;    // of every EP group, but for its ranks
  // Links of a group: latencies between its nodes, ports of its members. Groups of equal links
  // share answers.
  struct GroupLinks {
    std::vector<Duration> latencies;
    ExchangePorts ports;
    bool operator==(const GroupLinks&) const = default;
  };
  std::vector<GroupLinks> links;               // distinct ones
  std::vector<std::vector<int32_t>> links_of;  // by pipeline rank and group

  // Of all-to-alls between ranks with links[links_index], all of their group being simulated.
  ExchangeTerms exchange_terms(bool dispatch, Bytes token, int32_t links_index) const;

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
};

}  // namespace rehearse
