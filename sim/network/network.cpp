#include "sim/network/network.h"

#include <algorithm>
#include <set>

#include "base/integers.h"

namespace rehearse {
namespace {

double per_picosecond(BytesPerSecond rate) {
  return rate.value() * 1e-12;
}

double nic_rate(const Cluster& cluster, int64_t device) {
  const auto slow = cluster.slow_nics.find(device);
  return (slow == cluster.slow_nics.end() ? cluster.network->bandwidth : slow->second).value();
}

}  // namespace

FabricRoutes::FabricRoutes(const Cluster& cluster, std::optional<int64_t> devices)
    : fabric_(laid_out(cluster.fabric, devices)),
      per_node_(cluster.devices_per_node),
      devices_(
          std::min(static_cast<int64_t>(fabric_.attached.size()), devices.value_or(INT64_MAX))),
      network_(networks_of(fabric_)),
      ways_(fabric_.switches.size()) {
  for (size_t i = 0; i < fabric_.links.size(); ++i) {
    const SwitchLink& l = fabric_.links[i];
    ways_[l.a].push_back({l.b, 2 * i});
    ways_[l.b].push_back({l.a, 2 * i + 1});
  }
  std::set<size_t> used;
  for (int64_t d = 0; d < devices_; ++d) used.insert(attached(d));
  for (const size_t s : used) find_distances(s);
  find_binding(cluster);
  Duration sum;
  for (const Switch& s : fabric_.switches) sum += s.latency;
  switch_latency_ =
      Duration::picoseconds(sum.picoseconds() / static_cast<int64_t>(fabric_.switches.size()));
}

void FabricRoutes::find_distances(size_t to) {
  constexpr uint16_t kUnknown = UINT16_MAX;
  std::vector<uint16_t> distance(ways_.size(), kUnknown);
  distance[to] = 0;
  std::vector<size_t> seen{to};  // breadth first
  for (size_t i = 0; i < seen.size(); ++i) {
    for (const Way& w : ways_[seen[i]]) {
      if (distance[w.to] != kUnknown) continue;
      distance[w.to] = static_cast<uint16_t>(distance[seen[i]] + 1);
      seen.push_back(w.to);
    }
  }
  std::ranges::replace(distance, kUnknown, uint16_t{0});  // on other networks: never asked
  distances_.emplace(to, std::move(distance));
}

FabricRoutes::Path FabricRoutes::walk(size_t from,
                                      size_t to,
                                      std::optional<int64_t> destination) const {
  const std::vector<uint16_t>& distance = distances(to);
  Path path;
  // Switches at one distance after the other in ascending order, each with the share of the flow
  // that reaches it.
  std::vector<size_t> here{from}, next;
  std::vector<double>& share = shares_;
  share.resize(ways_.size(), 0);  // all zero between walks
  share[from] = 1;
  std::vector<Way> nearer;
  while (here.front() != to || here.size() > 1) {
    next.clear();
    for (const size_t at : here) {
      nearer.clear();
      double total = 0;
      for (const Way& w : ways_[at]) {
        if (distance[w.to] + 1 != distance[at] || network_[w.to] != network_[to]) continue;
        nearer.push_back(w);
        total += bandwidth(w.link);
      }
      if (destination) nearer = {nearer[static_cast<size_t>(*destination) % nearer.size()]};
      for (const Way& w : nearer) {
        const double part = destination ? share[at] : share[at] * bandwidth(w.link) / total;
        path.push_back({w.link, part});
        if (share[w.to] == 0) next.push_back(w.to);
        share[w.to] += part;
      }
    }
    for (const size_t at : here) share[at] = 0;
    std::sort(next.begin(), next.end());
    here.swap(next);
  }
  share[to] = 0;
  return path;
}

FabricRoutes::Path FabricRoutes::path(int64_t from, int64_t to) const {
  return walk(attached(from), attached(to), fabric_.adaptive ? std::nullopt : std::optional(to));
}

Duration FabricRoutes::latency(int64_t from, int64_t to) const {
  return switch_latency_ * (distances(attached(to))[attached(from)] + 1);
}

bool FabricRoutes::several_networks() const {
  return std::any_of(network_.begin(), network_.end(), [](size_t n) { return n > 0; });
}

int64_t FabricRoutes::leaves_by(int64_t from, int64_t to) const {
  if (same_network(from, to)) return from;
  const int64_t node = from / per_node_ * per_node_;
  int64_t device = node + to % per_node_;
  for (int64_t p = 0; !same_network(device, to); ++p) device = node + p;
  return device;
}

namespace {

// The most that can go over each link at once. NICs are added one by one: each sends (or receives)
// no more than its rate times the largest share of any of its flows that takes the link.
class LinkBound {
 public:
  explicit LinkBound(size_t links) : total_(links, 0), most_(links, 0) {}
  void flow(const FabricRoutes::Path& path) {
    for (const FabricRoutes::Part& p : path) {
      if (most_[p.link] == 0) touched_.push_back(p.link);
      most_[p.link] = std::max(most_[p.link], p.share);
    }
  }
  // The flows since the last call are all of NICs of this rate together.
  void add(double rate) {
    for (const size_t l : touched_) {
      total_[l] += rate * most_[l];
      most_[l] = 0;
    }
    touched_.clear();
  }
  const std::vector<double>& total() const { return total_; }

 private:
  std::vector<double> total_, most_;
  std::vector<size_t> touched_;
};

}  // namespace

void FabricRoutes::find_binding(const Cluster& cluster) {
  const size_t links = 2 * fabric_.links.size();
  LinkBound sent(links), received(links);
  std::map<size_t, double> nics;  // bandwidth attached to each switch
  for (int64_t d = 0; d < devices_; ++d) nics[attached(d)] += nic_rate(cluster, d);
  const auto flow = [&](LinkBound& bound, size_t from, size_t to, std::optional<int64_t> device) {
    if (from != to && network_[from] == network_[to]) bound.flow(walk(from, to, device));
  };
  for (const auto& [from, rate] : nics) {
    if (links == 0) break;
    if (fabric_.adaptive) {
      for (const auto& [to, unused] : nics) flow(sent, from, to, std::nullopt);
    } else {
      for (int64_t d = 0; d < devices_; ++d) flow(sent, from, attached(d), d);
    }
    sent.add(rate);
  }
  if (fabric_.adaptive) {
    for (const auto& [to, rate] : nics) {
      for (const auto& [from, unused] : nics) flow(received, from, to, std::nullopt);
      received.add(rate);
    }
  } else {
    for (int64_t d = 0; d < devices_; ++d) {
      for (const auto& [from, unused] : nics) flow(received, from, attached(d), d);
      received.add(nic_rate(cluster, d));
    }
  }
  set_binding(sent.total(), received.total());
}

void FabricRoutes::bind_between(const Cluster& cluster,
                                const std::vector<std::vector<int64_t>>& peers) {
  // Flows by the NIC that they leave by and by the one they come to. Those of one NIC whose paths
  // are the same are one: what matters of a path are its switches, and under static routing the
  // device it leads to.
  using Flow = std::pair<int64_t, int64_t>;  // NIC, the other end: a switch or a device
  std::vector<Flow> out, in;
  for (size_t from = 0; from < peers.size(); ++from) {
    for (const int64_t to : peers[from]) {
      const int64_t nic = leaves_by(static_cast<int64_t>(from), to);
      if (attached(nic) == attached(to)) continue;
      out.emplace_back(nic, fabric_.adaptive ? static_cast<int64_t>(attached(to)) : to);
      in.emplace_back(to, static_cast<int64_t>(attached(nic)));
    }
  }
  for (std::vector<Flow>* flows : {&out, &in}) {
    std::sort(flows->begin(), flows->end());
    flows->erase(std::unique(flows->begin(), flows->end()), flows->end());
  }
  std::map<std::pair<size_t, int64_t>, Path> known;
  // to: a switch, or under static routing a device.
  const auto path = [&](size_t from, int64_t to) -> const Path& {
    const auto [at, fresh] = known.try_emplace({from, to});
    if (fresh && fabric_.adaptive) at->second = walk(from, static_cast<size_t>(to), std::nullopt);
    if (fresh && !fabric_.adaptive) at->second = walk(from, attached(to), to);
    return at->second;
  };
  const size_t links = 2 * fabric_.links.size();
  LinkBound sent(links), received(links);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto [nic, to] = out[i];
    sent.flow(path(attached(nic), to));
    if (i + 1 == out.size() || out[i + 1].first != nic) sent.add(nic_rate(cluster, nic));
  }
  for (size_t i = 0; i < in.size(); ++i) {
    const auto [nic, from] = in[i];
    received.flow(path(static_cast<size_t>(from),
                       fabric_.adaptive ? static_cast<int64_t>(attached(nic)) : nic));
    if (i + 1 == in.size() || in[i + 1].first != nic) received.add(nic_rate(cluster, nic));
  }
  set_binding(sent.total(), received.total());
}

void FabricRoutes::set_binding(const std::vector<double>& sent,
                               const std::vector<double>& received) {
  constexpr double kRounding = 1e-9;
  binding_.assign(sent.size(), 0);
  any_binding_ = false;
  for (size_t l = 0; l < sent.size(); ++l) {
    binding_[l] = std::min(sent[l], received[l]) > bandwidth(l) * (1 + kRounding);
    any_binding_ |= binding_[l] != 0;
  }
}

Network::Network(const Cluster& cluster,
                 const RankBlock& block,
                 const FabricRoutes* routes,
                 Sharing& sharing)
    : cluster_(cluster), block_(block), routes_(routes) {
  const auto add = [&](double rate, std::vector<Ports>& ports) {
    const ResourceId out = sharing.add_resource(rate);
    ports.push_back({out, sharing.add_resource(rate)});
  };
  const int64_t ranks = block.ranks();
  const int64_t per_node = cluster.devices_per_node;
  const int64_t idle =
      block.count == block.layout.stage_ranks() ? round_up(ranks, per_node) - ranks : 0;
  const auto size = static_cast<size_t>(block.size() + idle);
  if (cluster.node_link) node_ports_.reserve(size);
  if (cluster.network) network_ports_.reserve(size);
  sharing.reserve_resources(size * 4);
  for (int64_t i = 0; i < block.size() + idle; ++i) {
    const int64_t device = i < block.size() ? block.rank(i) : ranks + i - block.size();
    if (cluster.node_link) add(per_picosecond(cluster.node_link->bandwidth), node_ports_);
    if (cluster.network) add(nic_rate(cluster, device) * 1e-12, network_ports_);
  }
  if (routes == nullptr || !routes->any_binding()) return;
  for (size_t l = 0; l < routes->binding().size(); ++l) {
    link_resources_.emplace_back();
    if (routes->binding()[l]) {
      link_resources_.back() = sharing.add_resource(routes->bandwidth(l) * 1e-12);
    }
  }
}

const std::vector<Use>& Network::between(int64_t from, int64_t to) const {
  const int64_t towards = routes_->adaptive() ? static_cast<int64_t>(routes_->switch_of(to)) : to;
  const auto [at, fresh] = between_.try_emplace({routes_->switch_of(from), towards});
  if (fresh) {
    for (const FabricRoutes::Part& p : routes_->path(from, to)) {
      if (const auto& r = link_resources_[p.link]) at->second.push_back({*r, p.share});
    }
  }
  return at->second;
}

std::optional<Network::Route> Network::route(int64_t from, int64_t to) const {
  if (from == to) return std::nullopt;
  if (cluster_.same_node(from, to)) {
    if (!cluster_.node_link) return std::nullopt;
    return Route{{{node_ports(from).out}, {node_ports(to).in}}, cluster_.node_link->latency};
  }
  Route route{.uses = {}, .latency = cluster_.network->latency};
  int64_t leaves = from;  // the rank whose NIC the flow leaves by
  if (routes_ != nullptr && !routes_->same_network(from, to)) {
    // Over NVLink to the node's device that is on the destination's network.
    leaves = routes_->leaves_by(from, to);
    route.uses = {{node_ports(from).out}, {node_ports(leaves).in}};
    route.latency += cluster_.node_link->latency;
  }
  route.uses.push_back({network_ports(leaves).out});
  if (routes_ != nullptr) {
    if (routes_->any_binding()) {
      const std::vector<Use>& links = between(leaves, to);
      route.uses.insert(route.uses.end(), links.begin(), links.end());
    }
    route.latency += routes_->latency(leaves, to);
  }
  route.uses.push_back({network_ports(to).in});
  return route;
}

}  // namespace rehearse
