#include "sim/folding.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>

#include <fmt/format.h>

namespace rehearse {
namespace {

// What the rest of the cluster is to one data rank, number by number: ranks with equal numbers are
// alike.
using Signature = std::vector<int64_t>;

class Signatures {
 public:
  Signatures(const GpuWorld& world, bool level_routes)
      : world_(world),
        level_routes_(level_routes),
        network_(world.plan.cluster,
                 RankBlock::all(world.layout()),
                 world.fabric ? &*world.fabric : nullptr,
                 sharing_) {}

  // members_alike: cleared where data ranks of the group differ.
  // Of an island: data ranks among which all groups that act within cells lie whole.
  Signature of_island(int64_t island, bool& members_alike) const {
    const Layout& l = world_.layout();
    Signature all;
    for (int64_t d = island * l.island(); d < (island + 1) * l.island(); ++d) {
      const Signature one = of_rank(d);
      members_alike &= all.empty() || std::equal(one.begin(), one.end(), all.begin());
      all.insert(all.end(), one.begin(), one.end());
    }
    const int64_t groups = l.island() / l.ep;
    for (const auto& links : world_.links_of) {
      if (links.empty()) continue;
      for (int64_t g = island * groups; g < (island + 1) * groups; ++g) {
        const int32_t index = links[static_cast<size_t>(g)];
        members_alike &= index == links[static_cast<size_t>(island * groups)];
        all.push_back(index);
        const auto& latencies = world_.links[static_cast<size_t>(index)].latencies;
        for (int64_t a = 0; a < world_.group.nodes; ++a) {
          for (int64_t b = 0; b < world_.group.nodes; ++b) {
            members_alike &= a == b || latencies[static_cast<size_t>(a * world_.group.nodes + b)] ==
                                           latencies[1];
          }
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
        if (level_routes_) continue;
        s.push_back(route ? route->latency.picoseconds() : -1);
        s.push_back(route ? static_cast<int64_t>(route->uses.size()) : -1);
      }
      // Ranks that share matrices or a sequence gather them within nodes or across them.
      for (const RankGroup& g : {l.context_group(), l.tensor_group(), l.expert_tensor_group()}) {
        const GroupPlace place(world_.plan, g, rank);
        s.push_back(place.per_node);
        s.push_back(place.nodes);
      }
    }
    return s;
  }

  const GpuWorld& world_;
  bool level_routes_;
  Sharing sharing_;
  Network network_;
};

}  // namespace

StandIns every_rank(const GpuWorld& world) {
  const Layout& l = world.layout();
  const auto dp = static_cast<int32_t>(l.stage_ranks());
  // Ranks that hold all experts may still differ in how many tokens each expert gets.
  const bool alike = world.plan.model.architecture.experts == 0 ||
                     world.plan.expert_load.varies == LoadVaries::kNever;
  const bool in_step = l.ep * l.etp == 1 && l.island() > 1 && alike;
  if (world.memoise && in_step && !world.shared_links) {
    const Signatures signatures(world, /*level_routes=*/false);
    std::vector<int32_t> islands(static_cast<size_t>(dp / l.island()));
    std::iota(islands.begin(), islands.end(), 0);
    bool members_alike = true;
    for (const int32_t i : islands) signatures.of_island(i, members_alike);
    if (members_alike) return {islands, static_cast<int32_t>(l.island()), /*whole=*/false};
  }
  return {dp, world.shared_links ? dp : static_cast<int32_t>(world.layout().island())};
}

Folding fold(const GpuWorld& world, ExpertLoad& load, bool level_routes) {
  if (world.shared_links) {
    return {every_rank(world), "links between switches are shared and can be a bottleneck"};
  }
  const Layout& l = world.layout();
  const auto count = static_cast<int32_t>(l.stage_ranks() / l.island());
  if (!load.uniform() && count > 1) {
    return {every_rank(world), "expert load differs between groups"};
  }
  const Signatures signatures(world, level_routes);
  std::map<Signature, int32_t> kinds;  // the first group of each
  std::vector<int32_t> groups;
  bool members_alike = true;
  for (int32_t g = 0; g < count; ++g) {
    groups.push_back(kinds.emplace(signatures.of_island(g, members_alike), g).first->second);
  }
  const bool loads_alike = load.uniform() && load.of(0, 0, 0).symmetric;
  const char* const together =
      l.island() == l.ep ? "expert-parallel group" : "island of groups that act within cells";
  std::string why;
  if (kinds.size() > 1) {
    why = fmt::format("{} {}s are of {} kinds: on leaf switches, devices or links that differ",
                      count,
                      together,
                      kinds.size());
  }
  if (l.island() > 1 && !(members_alike && loads_alike)) {
    why += fmt::format("{}ranks of an {} {}",
                       why.empty() ? "" : "; ",
                       together,
                       members_alike ? "have different loads" : "stand differently");
  }
  return {StandIns(groups, static_cast<int32_t>(l.island()), !(members_alike && loads_alike)), why};
}

}  // namespace rehearse
