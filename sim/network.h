#pragma once
// The links of a cluster as resources, and the route between two ranks: a node's devices joined by
// one link per device and direction, nodes by one NIC per device and direction.

#include <optional>
#include <vector>

#include "plan/cluster.h"
#include "sim/sharing.h"

namespace rehearse {

class Network {
 public:
  // Adds the links of `ranks` ranks to `sharing`; rank r sits on device r.
  Network(const Cluster& cluster, int64_t ranks, Sharing& sharing);

  struct Route {
    std::vector<Use> uses;  // weight 1: work is bytes, rates are bytes per picosecond
    Duration latency;
  };
  // Nothing between ranks that share memory.
  std::optional<Route> route(int64_t from, int64_t to) const;

 private:
  struct Ports {
    ResourceId out = 0;
    ResourceId in = 0;
  };
  const Cluster& cluster_;
  std::vector<Ports> node_ports_, network_ports_;
};

}  // namespace rehearse
