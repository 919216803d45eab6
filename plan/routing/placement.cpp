#include "plan/routing/placement.h"

#include <algorithm>

#include <fmt/format.h>

namespace rehearse {

ExpertGroup::ExpertGroup(const Plan& plan, int64_t pp_rank, int64_t data_rank)
    : size(plan.layout.ep),
      experts_per_member(plan.layout.experts_per_rank(plan.model.architecture.experts)),
      active_experts(plan.model.architecture.active_experts),
      dispatcher(plan.layout.dispatcher),
      me(plan.layout.expert_index_of(data_rank)) {
  const Layout& l = plan.layout;
  const int64_t first = l.first_of_expert_group(data_rank);
  for (int64_t m = 0; m < size; ++m) {
    ranks.push_back(l.rank_of(pp_rank, l.expert_group().member(first, m)));
  }
  nodes = 0;
  // Members may skip nodes, where the ranks between them share an expert.
  for (size_t m = 0; m < ranks.size(); ++m) {
    const bool next =
        m == 0 || plan.cluster.node_of(ranks[m]) != plan.cluster.node_of(ranks[m - 1]);
    nodes += next ? 1 : 0;
  }
  per_node = size / nodes;
}

std::vector<Placement> placements_of(const Plan& plan) {
  if (!plan.expert_placement) return {};
  const Architecture& a = plan.model.architecture;
  std::vector<Placement> all = read_placement(*plan.expert_placement, a.experts, plan.layout.ep);
  const auto layers = static_cast<size_t>(a.layers - a.dense_layers());
  const auto modules = static_cast<size_t>(a.mtp_depth);
  if (all.size() != 1 && all.size() != layers && all.size() != layers + modules) {
    throw InputError(
        fmt::format("{}: expert_placement: '{}' is of {} layers; the model has {} with experts{}",
                    plan.path,
                    *plan.expert_placement,
                    all.size(),
                    layers,
                    modules > 0 ? fmt::format(", {} with MTP modules", layers + modules) : ""));
  }
  for (const Placement& p : all) {
    if (!p.redundant()) continue;
    throw InputError(fmt::format(
        "{}: expert_placement: '{}' has {} slots for {} experts: a plan's have one each; "
        "replicas are replayed (rehearse replay --placement)",
        plan.path,
        *plan.expert_placement,
        p.expert_of.size(),
        a.experts));
  }
  return all;
}

const Placement* placement_of(const std::vector<Placement>& placements, int64_t place) {
  if (placements.empty()) return nullptr;
  return &placements[std::min(static_cast<size_t>(place), placements.size() - 1)];
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

}  // namespace rehearse
