#include "sim/gpu_world.h"

#include <algorithm>
#include <bit>

namespace rehearse {

GpuWorld::GpuWorld(const Plan& p, const Program& prog, const OpCosts& c, int32_t ranks)
    : plan(p), program(prog), costs(c), data_ranks(ranks), group(p, 0, 0) {
  const Cluster& cluster = plan.cluster;
  if (cluster.fabric.kind != FabricKind::kIdeal && cluster.network) {
    fabric.emplace(cluster);
    const int64_t per_node = cluster.devices_per_node;
    bool aligned = plan.layout.dp % per_node == 0 &&
                   (plan.layout.ep % per_node == 0 || per_node % plan.layout.ep == 0);
    for (int64_t d = 0; d < plan.layout.world(); ++d) {
      aligned &= fabric->same_network(d, d % per_node);
    }
    shared_links = fabric->any_binding() || (fabric->several_networks() && !aligned);
  }
  const Layout& l = plan.layout;
  Sharing unused;
  const Network network(
      cluster, {.pp = l.pp, .dp = l.dp, .count = l.dp}, fabric ? &*fabric : nullptr, unused);
  links_of.resize(static_cast<size_t>(l.pp));
  for (int64_t r = 0; r < l.pp && l.ep > 1; ++r) {
    for (int64_t g = 0; g < l.dp / l.ep; ++g) {
      GroupLinks of_group;
      const int64_t first = r * l.dp + g * l.ep;
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
  // Pipeline messages: every data rank's takes as long, over the same kind of link.
  for (int64_t r = 0; r < l.pp; ++r) {
    for (const int64_t to : {(r + 1) % l.pp, l.pp - 1 - r}) {
      const auto model = network.route(r * l.dp, to * l.dp);
      const auto inside = [&](int64_t d) {
        return (r * l.dp + d) / cluster.devices_per_node ==
               (to * l.dp + d) / cluster.devices_per_node;
      };
      for (int64_t d = 1; d < l.dp && groups_alike; ++d) {
        const auto route = network.route(r * l.dp + d, to * l.dp + d);
        groups_alike &= inside(d) == inside(0) && route.has_value() == model.has_value() &&
                        (!route || (route->latency == model->latency &&
                                    route->uses.size() == model->uses.size()));
      }
    }
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

CollectivePlan plan_collective(
    const Cluster& cluster, int64_t nodes, int64_t per_node, Bytes bytes, bool reduce_all) {
  const Duration network = cluster.network ? cluster.network->latency : Duration();
  const Duration node = cluster.node_link ? cluster.node_link->latency : Duration();
  const int64_t ranks = nodes * per_node;
  const int64_t passes = reduce_all ? 2 : 1;  // reduce, then broadcast
  const auto steps = [](int64_t n) {
    return static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(n - 1)));
  };
  using Algorithm = CollectivePlan::Algorithm;
  std::vector<CollectivePlan> candidates;
  // Parallel rings, one per position, enter and leave every node by another NIC each: a rank's NIC
  // carries its share of the node's traffic, its NVLink all but that.
  const Bytes out = nodes > 1 ? Bytes(bytes.count() / per_node) : Bytes();
  const Bytes inside = per_node > 1 ? Bytes(bytes.count() - bytes.count() / per_node) : Bytes();
  candidates.push_back({.algorithm = Algorithm::kRing,
                        .network = out,
                        .node = inside,
                        .latency = (network * nodes + node * (ranks - nodes)) * passes});
  candidates.push_back({.algorithm = Algorithm::kHierarchical,
                        .network = out,
                        .node = inside,
                        .latency = (network * (nodes - 1) + node * (per_node - 1)) * passes});
  if (reduce_all) {
    candidates.push_back({.algorithm = Algorithm::kTree,
                          .network = out,
                          .node = inside,
                          .latency = (network * steps(nodes) + node * (per_node - 1)) * passes});
  }
  const auto time = [&](const CollectivePlan& p) {
    Duration link;
    if (cluster.network) link = std::max(link, p.network / cluster.network->bandwidth);
    if (cluster.node_link) link = std::max(link, p.node / cluster.node_link->bandwidth);
    return link + p.latency;
  };
  return *std::min_element(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) {
    return time(a) < time(b);
  });
}

}  // namespace rehearse
