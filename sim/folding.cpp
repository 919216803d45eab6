#include "sim/folding.h"

#include <algorithm>
#include <bit>
#include <map>

#include <fmt/format.h>

namespace rehearse {
namespace {

// What the rest of the cluster is to one data rank, number by number: ranks with equal numbers are
// alike.
using Signature = std::vector<int64_t>;

class Signatures {
 public:
  explicit Signatures(const GpuWorld& world)
      : world_(world),
        network_(world.plan.cluster,
                 RankBlock::all(world.layout()),
                 world.fabric ? &*world.fabric : nullptr,
                 sharing_) {}

  // members_alike: cleared where data ranks of the group differ.
  Signature of_group(int64_t group, bool& members_alike) const {
    const Layout& l = world_.layout();
    Signature all;
    for (int64_t d = group * l.ep; d < (group + 1) * l.ep; ++d) {
      const Signature one = of_rank(d);
      members_alike &= all.empty() || std::equal(one.begin(), one.end(), all.begin());
      all.insert(all.end(), one.begin(), one.end());
    }
    for (const auto& links : world_.links_of) {
      if (links.empty()) continue;
      const int32_t index = links[static_cast<size_t>(group)];
      all.push_back(index);
      const auto& latencies = world_.links[static_cast<size_t>(index)].latencies;
      for (int64_t a = 0; a < world_.group.nodes; ++a) {
        for (int64_t b = 0; b < world_.group.nodes; ++b) {
          members_alike &=
              a == b || latencies[static_cast<size_t>(a * world_.group.nodes + b)] == latencies[1];
        }
      }
    }
    return all;
  }

 private:
  Signature of_rank(int64_t d) const {
    const Layout& l = world_.layout();
    const Cluster& cluster = world_.plan.cluster;
    Signature s;
    for (int64_t r = 0; r < l.pp; ++r) {
      const int64_t rank = l.rank_of(r, d);
      s.push_back(std::bit_cast<int64_t>(cluster.speed(rank)));
      if (cluster.network) {
        s.push_back(std::bit_cast<int64_t>(sharing_.capacity(network_.network_ports(rank).out)));
      }
      // Pipeline messages: how far they go, and over what.
      for (const int64_t to : {(r + 1) % l.pp, l.pp - 1 - r}) {
        const auto route = network_.route(rank, l.rank_of(to, d));
        s.push_back(cluster.same_node(rank, l.rank_of(to, d)));
        s.push_back(route ? route->latency.picoseconds() : -1);
        s.push_back(route ? static_cast<int64_t>(route->uses.size()) : -1);
      }
      // Ranks that share a sequence gather it within nodes or across them.
      const ContextGroup context(world_.plan, rank);
      s.push_back(context.per_node);
      s.push_back(context.nodes);
    }
    return s;
  }

  const GpuWorld& world_;
  Sharing sharing_;
  Network network_;
};

}  // namespace

StandIns every_rank(const GpuWorld& world) {
  const auto dp = static_cast<int32_t>(world.layout().dp);
  return {dp, world.shared_links ? dp : static_cast<int32_t>(world.layout().ep)};
}

Folding fold(const GpuWorld& world, ExpertLoad& load) {
  if (world.shared_links) {
    return {every_rank(world), "links between switches are shared and can be a bottleneck"};
  }
  const Layout& l = world.layout();
  const auto count = static_cast<int32_t>(l.expert_groups());
  if (!load.uniform() && count > 1) {
    return {every_rank(world), "expert load differs between groups"};
  }
  const Signatures signatures(world);
  std::map<Signature, int32_t> kinds;  // the first group of each
  std::vector<int32_t> groups;
  bool members_alike = true;
  for (int32_t g = 0; g < count; ++g) {
    groups.push_back(kinds.emplace(signatures.of_group(g, members_alike), g).first->second);
  }
  const bool loads_alike = load.uniform() && load.of(0, 0, 0).symmetric;
  std::string why;
  if (kinds.size() > 1) {
    why = fmt::format(
        "{} expert-parallel groups are of {} kinds: on leaf switches, devices or links that differ",
        count,
        kinds.size());
  }
  if (l.ep > 1 && !(members_alike && loads_alike)) {
    why += fmt::format("{}ranks of an expert-parallel group {}",
                       why.empty() ? "" : "; ",
                       members_alike ? "have different loads" : "stand differently");
  }
  return {StandIns(groups, static_cast<int32_t>(l.ep), !(members_alike && loads_alike)), why};
}

}  // namespace rehearse
