#include "sim/in_step.h"

#include <algorithm>
#include <bit>
#include <map>

namespace rehearse {
namespace {

using Signature = std::vector<int64_t>;

// Devices and switches of a data rank, and how its groups stand on nodes, on every pipeline rank.
Signature of_links(const GpuWorld& world,
                   const Network& network,
                   const Sharing& sharing,
                   int64_t d) {
  const Layout& l = world.layout();
  const Cluster& cluster = world.plan.cluster;
  Signature s;
  for (int64_t r = 0; r < l.pp; ++r) {
    const int64_t rank = l.rank_of(r, d);
    s.push_back(std::bit_cast<int64_t>(cluster.speed(rank)));
    s.push_back(std::bit_cast<int64_t>(sharing.capacity(network.network_ports(rank).out)));
    s.push_back(static_cast<int64_t>(world.fabric->switch_of(rank)));
    for (const int64_t to : {(r + 1) % l.pp, l.pp - 1 - r}) {
      s.push_back(cluster.same_node(rank, l.rank_of(to, d)));
    }
    for (const RankGroup& g : {l.context_group(), l.tensor_group(), l.expert_tensor_group()}) {
      const GroupPlace place(world.plan, g, rank);
      s.push_back(place.per_node);
      s.push_back(place.nodes);
    }
  }
  return s;
}

std::vector<int32_t> numbered(const std::vector<Signature>& signatures) {
  std::map<Signature, int32_t> known;
  std::vector<int32_t> numbers;
  for (const Signature& s : signatures) {
    numbers.push_back(known.emplace(s, static_cast<int32_t>(known.size())).first->second);
  }
  return numbers;
}

// Classes of those that a data rank exchanges with, group by group.
Signature of_partners(const GpuWorld& world, const std::vector<int32_t>& classes, int64_t d) {
  const Layout& l = world.layout();
  Signature s{classes[static_cast<size_t>(d)]};
  const auto add = [&](std::vector<int64_t>& of_group) {
    std::sort(of_group.begin(), of_group.end());
    s.push_back(-1 - static_cast<int64_t>(of_group.size()));
    s.insert(s.end(), of_group.begin(), of_group.end());
    of_group.clear();
  };
  const auto class_of = [&](int64_t rank) -> int64_t { return classes[static_cast<size_t>(rank)]; };
  std::vector<int64_t> of_group, across;
  const RankGroup experts = l.expert_group();
  const int64_t me = experts.index(d);
  for (int64_t m = 0; m < experts.size; ++m) {
    const int64_t c = class_of(experts.member(experts.first(d), m));
    if (world.group.node_of(m) == world.group.node_of(me)) of_group.push_back(c);
    if (world.group.position_of(m) == world.group.position_of(me)) across.push_back(c);
  }
  add(of_group);
  add(across);
  for (const RankGroup& g : {l.context_group(), l.tensor_group(), l.expert_tensor_group()}) {
    for (int64_t m = 0; m < g.size; ++m) of_group.push_back(class_of(g.member(g.first(d), m)));
    add(of_group);
  }
  return s;
}

}  // namespace

std::vector<int32_t> classes_in_step(const GpuWorld& world) {
  // Under static routing a flow's way hangs on the number of the device that it goes to.
  if (!world.fabric || !world.fabric->adaptive() || world.fabric->several_networks()) return {};
  Sharing sharing;
  const Network network(
      world.plan.cluster, RankBlock::all(world.layout()), &*world.fabric, sharing);
  std::vector<Signature> signatures;
  for (int64_t d = 0; d < world.layout().stage_ranks(); ++d) {
    signatures.push_back(of_links(world, network, sharing, d));
  }
  std::vector<int32_t> classes = numbered(signatures);
  // Ranks whose partners differ are told apart, until none do.
  for (int32_t count = 0;;) {
    const int32_t now = *std::max_element(classes.begin(), classes.end()) + 1;
    if (now == count) return classes;
    count = now;
    for (size_t d = 0; d < signatures.size(); ++d) {
      signatures[d] = of_partners(world, classes, static_cast<int64_t>(d));
    }
    classes = numbered(signatures);
  }
}

}  // namespace rehearse
