#pragma once
// What a cluster of GPUs is to one simulation: its routes, the links of every EP group, which ranks
// are alike, and how collectives run.

#include <optional>
#include <unordered_map>
#include <vector>

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
  bool alike(const ContextGroup& g) const { return per_node == g.per_node && nodes == g.nodes; }

 private:
  int64_t nodes = 1;
};

// What the work of all islands has in common, made once before they run.
struct GpuWorld {
  GpuWorld(const Plan& plan, const Program& program, const OpCosts& costs, int32_t data_ranks);

  const Layout& layout() const { return plan.layout; }

  const Plan& plan;
  const Program& program;
  const OpCosts& costs;
  std::optional<FabricRoutes> fabric;
  // Some link between switches can be a bottleneck, or ranks use each other's NICs.
  bool shared_links = false;
  bool memoise = true;     // identical all-to-alls that nothing disturbs are worked out once
  int32_t data_ranks = 1;  // simulated
  ExpertGroup group;       // of every EP group, but for its ranks
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

  // Whether all data ranks, or at least all EP groups, have equal devices and equal links to
  // whatever they talk to.
  bool ranks_alike = true;
  bool groups_alike = true;
  std::string not_alike;  // why groups are not, in words; empty where they are

  // Collectives that tie islands together.
  struct Collective {
    std::vector<OpId> members;   // simulated ones
    std::vector<int64_t> ranks;  // of all members, ascending; where links are shared
    int64_t per_node = 1;        // ranks of one node that are neighbours in `ranks`
    size_t missing = 0;          // parts
    CollectivePlan plan;
  };
  std::unordered_map<int64_t, Collective> collectives;  // never iterated
  std::vector<class GpuWork*> works;                    // by island
  LinkLoad load;                                        // of ranks chosen for it
};

}  // namespace rehearse
