#pragma once
// The links of a cluster as resources, and the route between two ranks: a node's devices joined by
// one link per device and direction, nodes by one NIC per device and direction and the switches
// between them.

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "plan/cluster.h"
#include "plan/layout.h"
#include "sim/engine/sharing.h"

namespace rehearse {

// The ways through a cluster's switches. Routes are shortest paths; under adaptive routing a flow
// is spread over all of them, evenly at each switch (by capacity where cables differ), under static
// routing it takes the one that its destination's number chooses.
class FabricRoutes {
 public:
  struct Part {
    size_t link = 0;   // 2 x index in fabric.links, plus 1 from b to a
    double share = 1;  // of the flow
  };
  using Path = std::vector<Part>;

  // devices: the first so many send and receive, none: all. What no device uses costs nothing.
  explicit FabricRoutes(const Cluster& cluster, std::optional<int64_t> devices = {});

  bool same_network(int64_t a, int64_t b) const {
    return network_[attached(a)] == network_[attached(b)];
  }
  // REQUIRES: same_network.
  Path path(int64_t from, int64_t to) const;
  // The device of `from`'s node whose NIC a flow to `to` leaves by: its own, or one that is on the
  // network of `to`, that of `to`'s position where it is.
  int64_t leaves_by(int64_t from, int64_t to) const;
  // Directed links that can be a bottleneck. The others cannot: the NICs that send (or those that
  // receive) over such a link never fill it together, whatever they do.
  const std::vector<char>& binding() const { return binding_; }
  // The same where each device sends to and receives from its peers alone.
  void bind_between(const Cluster& cluster, const std::vector<std::vector<int64_t>>& peers);
  double bandwidth(size_t link) const { return fabric_.links[link / 2].bandwidth.value(); }
  bool any_binding() const { return any_binding_; }
  // Of the switches passed.
  Duration latency(int64_t from, int64_t to) const;
  bool several_networks() const;
  bool adaptive() const { return fabric_.adaptive; }
  size_t switch_of(int64_t device) const { return attached(device); }

 private:
  struct Way {
    size_t to = 0;    // switch
    size_t link = 0;  // directed
  };
  size_t attached(int64_t device) const { return fabric_.attached[static_cast<size_t>(device)]; }
  const std::vector<uint16_t>& distances(size_t to) const { return distances_.at(to); }
  void find_distances(size_t to);
  Path walk(size_t from, size_t to, std::optional<int64_t> destination) const;
  void find_binding(const Cluster& cluster);
  void set_binding(const std::vector<double>& sent, const std::vector<double>& received);

  Fabric fabric_;
  int64_t per_node_;
  int64_t devices_;                     // that send and receive
  std::vector<size_t> network_;         // by switch
  std::vector<std::vector<Way>> ways_;  // by switch
  std::map<size_t, std::vector<uint16_t>>
      distances_;  // to a switch with devices, from every switch
  std::vector<char> binding_;
  // Of walk(), whose calls come one after the other: while a world is made, and by its islands'
  // messages under links that bind, which go on one clock.
  mutable std::vector<double> shares_;
  bool any_binding_ = false;
  Duration switch_latency_;  // all are alike, unless they were stated one by one: then their mean
};

// The ranks that are simulated together: of every pipeline rank, data ranks `first` to `first +
// count`. Where these are fewer than the layout has and stand for the others, the others' links are
// theirs.
struct RankBlock {
  Layout layout;
  int64_t first = 0;
  int64_t count = 1;
  int64_t ranks() const { return layout.world(); }
  int64_t size() const { return layout.pp * count; }
  // Of a rank or the one that stands for it; devices beyond the layout's ranks follow all ranks.
  size_t index(int64_t rank) const {
    if (rank >= ranks()) return static_cast<size_t>(size() + rank - ranks());
    const Place p = layout.place_of(rank);
    const int64_t d = (p.data_rank - first) % count;
    return static_cast<size_t>(p.pp_rank * count + (d < 0 ? d + count : d));
  }
  int64_t rank(int64_t index) const { return layout.rank_of(index / count, first + index % count); }
  static RankBlock all(const Layout& layout) {
    return {.layout = layout, .first = 0, .count = layout.stage_ranks()};
  }
};

class Network {
 public:
  // Adds the links of the block's ranks to `sharing`, and those of their last node's other devices
  // where the block is all ranks, which may use these devices' NICs; rank r sits on device r.
  // routes: of the cluster's fabric, when it has one; must outlive this.
  Network(const Cluster& cluster,
          const RankBlock& block,
          const FabricRoutes* routes,
          Sharing& sharing);

  struct Route {
    std::vector<Use> uses;  // weight 1: work is bytes, rates are bytes per picosecond
    Duration latency;
  };
  // Nothing between ranks that share memory.
  std::optional<Route> route(int64_t from, int64_t to) const;

  // A rank's ports: out to and in from its node's links, or the network.
  struct Ports {
    ResourceId out = 0;
    ResourceId in = 0;
  };
  const Ports& node_ports(int64_t rank) const { return of(node_ports_, rank); }
  const Ports& network_ports(int64_t rank) const { return of(network_ports_, rank); }

 private:
  const Ports& of(const std::vector<Ports>& ports, int64_t rank) const {
    const size_t index = block_.index(rank);
    CHECK(index < ports.size()) << "no links of device " << rank;
    return ports[index];
  }
  const Cluster& cluster_;
  RankBlock block_;
  std::vector<Ports> node_ports_, network_ports_;  // by index in the block
  const FabricRoutes* routes_;
  // By directed link; of those that bind.
  std::vector<std::optional<ResourceId>> link_resources_;
  // Of links that bind, by the switch that a flow comes from and the one that it goes to, or under
  // static routing the device.
  const std::vector<Use>& between(int64_t from, int64_t to) const;
  mutable std::map<std::pair<size_t, int64_t>, std::vector<Use>> between_;
};

}  // namespace rehearse
