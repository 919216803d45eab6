#include "sim/gpu_world.h"

#include <algorithm>
#include <map>

#include "base/integers.h"

namespace rehearse {

ContextGroup::ContextGroup(const Plan& plan, int64_t rank) : size(plan.training.context_parallel) {
  const Place p = plan.layout.place_of(rank);
  first = plan.layout.rank_of(p.pp_rank, p.data_rank / size * size);
  std::map<int64_t, int64_t> on_node;
  for (int64_t r = first; r < first + size; ++r) ++on_node[plan.cluster.node_of(r)];
  nodes = static_cast<int64_t>(on_node.size());
  const bool even = std::all_of(on_node.begin(), on_node.end(), [&](const auto& n) {
    return n.second == on_node.begin()->second;
  });
  per_node = even ? on_node.begin()->second : 1;
}

GpuWorld::GpuWorld(const Plan& p, const Program& prog, const OpCosts& c, int32_t ranks)
    : plan(p), program(prog), costs(c), data_ranks(ranks), group(p, 0, 0) {
  const Cluster& cluster = plan.cluster;
  if (cluster.fabric.kind != FabricKind::kIdeal && cluster.network) {
    const int64_t per_node = cluster.devices_per_node;
    fabric.emplace(cluster, round_up(plan.layout.world(), per_node));
    bool aligned = plan.layout.dp % per_node == 0 &&
                   (plan.layout.ep % per_node == 0 || per_node % plan.layout.ep == 0);
    for (int64_t d = 0; d < plan.layout.world(); ++d) {
      aligned &= fabric->same_network(d, d % per_node);
    }
    shared_links = fabric->any_binding() || (fabric->several_networks() && !aligned);
  }
  const Layout& l = plan.layout;
  Sharing unused;
  const Network network(cluster, RankBlock::all(l), fabric ? &*fabric : nullptr, unused);
  links_of.resize(static_cast<size_t>(l.pp));
  for (int64_t r = 0; r < l.pp && l.ep > 1; ++r) {
    for (int64_t g = 0; g < l.expert_groups(); ++g) {
      GroupLinks of_group;
      const int64_t first = l.rank_of(r, g * l.ep);
      for (int64_t a = 0; a < group.nodes; ++a) {
        for (int64_t b = 0; b < group.nodes; ++b) {
          const auto route =
              a == b ? std::nullopt
                     : network.route(first + group.member(a, 0), first + group.member(b, 0));
          of_group.latencies.push_back(route ? route->latency : Duration());
          ranks_alike &= a == b || of_group.latencies.back() == of_group.latencies[1];
        }
      }
      for (int64_t m = 0; m < l.ep; ++m) {
        ExchangePorts::Member ports;
        if (cluster.node_link) {
          ports.node_out = unused.capacity(network.node_ports(first + m).out);
          ports.node_in = unused.capacity(network.node_ports(first + m).in);
        }
        if (cluster.network) {
          ports.network_out = unused.capacity(network.network_ports(first + m).out);
          ports.network_in = unused.capacity(network.network_ports(first + m).in);
        }
        of_group.ports.members.push_back(ports);
      }
      const auto same = std::find(links.begin(), links.end(), of_group);
      links_of[static_cast<size_t>(r)].push_back(static_cast<int32_t>(same - links.begin()));
      if (same == links.end()) links.push_back(std::move(of_group));
    }
    for (const int32_t g : links_of[static_cast<size_t>(r)]) {
      groups_alike &= g == links_of[static_cast<size_t>(r)].front();
    }
  }
  if (!groups_alike) {
    not_alike = "expert-parallel groups stand on leaf switches differently, or on slower links";
  }
  // Pipeline messages: every data rank's takes as long, over the same kind of link.
  for (int64_t r = 0; r < l.pp; ++r) {
    for (const int64_t to : {(r + 1) % l.pp, l.pp - 1 - r}) {
      const auto model = network.route(l.rank_of(r, 0), l.rank_of(to, 0));
      const auto inside = [&](int64_t d) {
        return cluster.same_node(l.rank_of(r, d), l.rank_of(to, d));
      };
      for (int64_t d = 1; d < l.dp && groups_alike; ++d) {
        const auto route = network.route(l.rank_of(r, d), l.rank_of(to, d));
        groups_alike &= inside(d) == inside(0) && route.has_value() == model.has_value() &&
                        (!route || (route->latency == model->latency &&
                                    route->uses.size() == model->uses.size()));
      }
    }
  }
  if (!groups_alike && not_alike.empty()) {
    not_alike = "pipeline messages of some data ranks cross more switches than others'";
  }
  // Ranks that share a sequence gather it within nodes or across them: alike for all.
  const ContextGroup first_context(plan, 0);
  for (int64_t r = 0; r < l.pp && first_context.size > 1; ++r) {
    for (int64_t d = 0; d < l.dp && groups_alike; d += first_context.size) {
      groups_alike &= first_context.alike(ContextGroup(plan, l.rank_of(r, d)));
    }
  }
  if (!groups_alike && not_alike.empty()) {
    not_alike = "ranks that share a sequence lie on nodes differently";
  }
  if (!cluster.uniform()) not_alike = "the cluster has devices or NICs that differ";
  if (shared_links) {
    not_alike = "links between switches are shared and can be a bottleneck";
  }
  groups_alike &= cluster.uniform() && !shared_links;
  ranks_alike &= groups_alike;
}

ExchangeTerms GpuWorld::exchange_terms(bool dispatch, Bytes token, int32_t links_index) const {
  const Cluster& cluster = plan.cluster;
  std::optional<BytesPerSecond> copy;
  if (cluster.copy_per_sm) {
    copy = BytesPerSecond(cluster.copy_per_sm->value() *
                          static_cast<double>(cluster.communication_sms));
  }
  return {.dispatch = dispatch,
          .token = token,
          .latencies = links[static_cast<size_t>(links_index)].latencies,
          .within = cluster.node_link ? cluster.node_link->latency : Duration(),
          .copy = copy,
          .members = group.size};
}

}  // namespace rehearse
