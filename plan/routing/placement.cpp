#include "plan/routing/placement.h"

#include <map>

#include <fmt/format.h>

namespace rehearse {

ExpertGroup::ExpertGroup(const Plan& plan, int64_t pp_rank, int64_t data_rank)
    : size(plan.layout.ep),
      experts_per_member(plan.model.architecture.experts / plan.layout.ep),
      me(data_rank % plan.layout.ep) {
  const int64_t first = pp_rank * plan.layout.dp + data_rank / size * size;
  for (int64_t m = 0; m < size; ++m) ranks.push_back(first + m);
  const int64_t devices = plan.cluster.devices_per_node;
  nodes = ranks.back() / devices - ranks.front() / devices + 1;
  per_node = size / nodes;
}

std::vector<int64_t> ExpertGroup::across_nodes() const {
  std::vector<int64_t> list;
  for (int64_t n = 0; n < nodes; ++n) {
    list.push_back(ranks[static_cast<size_t>(member(n, position_of(me)))]);
  }
  return list;
}

std::vector<int64_t> ExpertGroup::within_node() const {
  std::vector<int64_t> list;
  for (int64_t p = 0; p < per_node; ++p) {
    list.push_back(ranks[static_cast<size_t>(member(node_of(me), p))]);
  }
  return list;
}

std::string check_expert_groups(const Layout& layout, const Cluster& cluster) {
  size_t nodes_of_first = 0;
  for (int64_t first = 0; first < layout.pp * layout.dp; first += layout.ep) {
    std::map<int64_t, int64_t> members;  // by node
    for (int64_t r = first; r < first + layout.ep; ++r) ++members[r / cluster.devices_per_node];
    for (const auto& [node, count] : members) {
      if (count == members.begin()->second) continue;
      return fmt::format(
          "the expert-parallel group of ranks {} to {} has {} ranks on node {} and {} on node {}; "
          "it must spread evenly over nodes of {} devices",
          first,
          first + layout.ep - 1,
          members.begin()->second,
          members.begin()->first,
          count,
          node,
          cluster.devices_per_node);
    }
    if (first == 0) nodes_of_first = members.size();
    if (members.size() != nodes_of_first) {
      return fmt::format(
          "the expert-parallel group of ranks {} to {} stands on {} nodes of {} devices and that "
          "of "
          "ranks 0 to {} on {}; all groups must stand on as many",
          first,
          first + layout.ep - 1,
          members.size(),
          cluster.devices_per_node,
          layout.ep - 1,
          nodes_of_first);
    }
  }
  return "";
}

}  // namespace rehearse
