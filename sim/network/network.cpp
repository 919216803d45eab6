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
    : fabric_(cluster.fabric),
      devices_(std::min(static_cast<int64_t>(cluster.fabric.attached.size()),
                        devices.value_or(INT64_MAX))),
      network_(networks_of(cluster.fabric)),
      ways_(cluster.fabric.switches.size()) {
  for (size_t i = 0; i < fabric_.links.size(); ++i) {
    const SwitchLink& l = fabric_.links[i];
    ways_[l.a].push_back({l.b, 2 * i});
    ways_[l.b].push_back({l.a, 2 * i + 1});
  }
  std::set<size_t> used;
  for (int64_t d = 0; d < devices_; ++d) used.insert(attached(d));
  for (const size_t s : used) find_distances(s);
  find_binding(cluster);
  any_binding_ = std::find(binding_.begin(), binding_.end(), 1) != binding_.end();
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
  // Switches at one distance after the other, each with the share of the flow that reaches it.
  std::map<size_t, double> here{{from, 1.0}};
  while (here.begin()->first != to || here.size() > 1) {
    std::map<size_t, double> next;
    for (const auto& [at, share] : here) {
      std::vector<Way> nearer;
      double total = 0;
      for (const Way& w : ways_[at]) {
        if (distance[w.to] + 1 != distance[at] || network_[w.to] != network_[to]) continue;
        nearer.push_back(w);
        total += bandwidth(w.link);
      }
      if (destination) nearer = {nearer[static_cast<size_t>(*destination) % nearer.size()]};
      for (const Way& w : nearer) {
        const double part = destination ? share : share * bandwidth(w.link) / total;
        path.push_back({w.link, part});
        next[w.to] += part;
      }
    }
    here = std::move(next);
  }
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

void FabricRoutes::find_binding(const Cluster& cluster) {
  // What can go over a link at once: no more than the NICs send that use it at all, each by the
  // largest share it ever sends there; nor more than those receive that it leads to.
  const size_t links = 2 * fabric_.links.size();
  binding_.assign(links, 1);
  std::map<size_t, double> nics;  // bandwidth attached to each switch
  for (int64_t d = 0; d < devices_; ++d) nics[attached(d)] += nic_rate(cluster, d);
  if (links == 0) return;
  std::vector<double> sent(links, 0), received(links, 0), most(links, 0);
  std::vector<size_t> touched;
  const auto widen = [&](size_t from, size_t to, std::optional<int64_t> destination) {
    if (from == to || network_[from] != network_[to]) return;
    for (const Part& p : walk(from, to, destination)) {
      if (most[p.link] == 0) touched.push_back(p.link);
      most[p.link] = std::max(most[p.link], p.share);
    }
  };
  const auto add = [&](std::vector<double>& total, double rate) {
    for (const size_t l : touched) {
      total[l] += rate * most[l];
      most[l] = 0;
    }
    touched.clear();
  };
  for (const auto& [from, rate] : nics) {
    if (fabric_.adaptive) {
      for (const auto& [to, unused] : nics) widen(from, to, std::nullopt);
    } else {
      for (int64_t d = 0; d < devices_; ++d) widen(from, attached(d), d);
    }
    add(sent, rate);
  }
  if (fabric_.adaptive) {
    for (const auto& [to, rate] : nics) {
      for (const auto& [from, unused] : nics) widen(from, to, std::nullopt);
      add(received, rate);
    }
  } else {
    for (int64_t d = 0; d < devices_; ++d) {
      for (const auto& [from, unused] : nics) widen(from, attached(d), d);
      add(received, nic_rate(cluster, d));
    }
  }
  constexpr double kRounding = 1e-9;
  for (size_t l = 0; l < links; ++l) {
    binding_[l] = std::min(sent[l], received[l]) > bandwidth(l) * (1 + kRounding);
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
  const int64_t idle = block.count == block.layout.dp ? round_up(ranks, per_node) - ranks : 0;
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

std::optional<Network::Route> Network::route(int64_t from, int64_t to) const {
  if (from == to) return std::nullopt;
  const int64_t per_node = cluster_.devices_per_node;
  if (cluster_.same_node(from, to)) {
    if (!cluster_.node_link) return std::nullopt;
    return Route{{{node_ports(from).out}, {node_ports(to).in}}, cluster_.node_link->latency};
  }
  Route route{.uses = {}, .latency = cluster_.network->latency};
  int64_t leaves = from;  // the rank whose NIC the flow leaves by
  if (routes_ != nullptr && !routes_->same_network(from, to)) {
    // Over NVLink to the node's device that is on the destination's network; the one of its
    // position, where that is.
    const int64_t node = from / per_node * per_node;
    leaves = node + to % per_node;
    for (int64_t p = 0; !routes_->same_network(leaves, to); ++p) leaves = node + p;
    route.uses = {{node_ports(from).out}, {node_ports(leaves).in}};
    route.latency += cluster_.node_link->latency;
  }
  route.uses.push_back({network_ports(leaves).out});
  if (routes_ != nullptr) {
    if (routes_->any_binding()) {
      for (const FabricRoutes::Part& p : routes_->path(leaves, to)) {
        if (const auto& r = link_resources_[p.link]) route.uses.push_back({*r, p.share});
      }
    }
    route.latency += routes_->latency(leaves, to);
  }
  route.uses.push_back({network_ports(to).in});
  return route;
}

}  // namespace rehearse
