#include "sim/network.h"

namespace rehearse {

Network::Network(const Cluster& cluster, int64_t ranks, Sharing& sharing) : cluster_(cluster) {
  const auto add = [&](const Link& link, std::vector<Ports>& ports) {
    const double capacity = link.bandwidth.value() * 1e-12;
    for (int64_t r = 0; r < ranks; ++r) {
      const ResourceId out = sharing.add_resource(capacity);
      ports.push_back({out, sharing.add_resource(capacity)});
    }
  };
  if (cluster.node_link) add(*cluster.node_link, node_ports_);
  if (cluster.network) add(*cluster.network, network_ports_);
}

std::optional<Network::Route> Network::route(int64_t from, int64_t to) const {
  if (from == to) return std::nullopt;
  const bool same_node = from / cluster_.devices_per_node == to / cluster_.devices_per_node;
  if (same_node && !cluster_.node_link) return std::nullopt;
  const std::vector<Ports>& ports = same_node ? node_ports_ : network_ports_;
  const Link& link = same_node ? *cluster_.node_link : *cluster_.network;
  Route route{.uses = {}, .latency = link.latency};
  route.uses.push_back({.resource = ports[static_cast<size_t>(from)].out});
  route.uses.push_back({.resource = ports[static_cast<size_t>(to)].in});
  return route;
}

}  // namespace rehearse
