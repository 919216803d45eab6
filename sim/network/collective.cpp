#include "sim/network/collective.h"

#include <algorithm>
#include <bit>
#include <vector>

namespace rehearse {

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
  const Bytes inside = per_node > 1 ? Bytes(bytes.count() - out.count()) : Bytes();
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
