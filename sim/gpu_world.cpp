#include "sim/gpu_world.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/integers.h"

namespace rehearse {

GroupPlace::GroupPlace(const Plan& plan, const RankGroup& g, int64_t rank) : group(g) {
  const Place p = plan.layout.place_of(rank);
  first = plan.layout.rank_of(p.pp_rank, g.first(p.data_rank));
  std::map<int64_t, int64_t> on_node;
  for (int64_t m = 0; m < g.size; ++m) ++on_node[plan.cluster.node_of(g.member(first, m))];
  nodes = static_cast<int64_t>(on_node.size());
  const bool even = std::all_of(on_node.begin(), on_node.end(), [&](const auto& n) {
    return n.second == on_node.begin()->second;
  });
  per_node = even ? on_node.begin()->second : 1;
}

CollectiveRing::CollectiveRing(const Plan& plan,
                               const Program& program,
                               const std::vector<OpId>& ops) {
  std::map<int64_t, int64_t> on_node;
  for (const OpId op : ops) {
    ranks.push_back(program.global_rank(op));
    ++on_node[plan.cluster.node_of(ranks.back())];
  }
  std::sort(ranks.begin(), ranks.end());
  const bool even = std::all_of(on_node.begin(), on_node.end(), [&](const auto& n) {
    return n.second == on_node.begin()->second;
  });
  per_node = even ? on_node.begin()->second : 1;
}

int64_t CollectiveRing::next(int64_t rank) const {
  const auto at = std::lower_bound(ranks.begin(), ranks.end(), rank) - ranks.begin();
  return ranks[static_cast<size_t>((at + per_node) % static_cast<int64_t>(ranks.size()))];
}

namespace {

// Whom each rank sends to or receives from over the network in a step.
std::vector<std::vector<int64_t>> network_peers(const Plan& plan,
                                                const Program& program,
                                                const ExpertGroup& group) {
  const Layout& l = plan.layout;
  std::vector<std::vector<int64_t>> peers(static_cast<size_t>(l.world()));
  const auto join = [&](int64_t a, int64_t b) {
    if (plan.cluster.same_node(a, b)) return;
    peers[static_cast<size_t>(a)].push_back(b);
    peers[static_cast<size_t>(b)].push_back(a);
  };
  std::set<std::pair<int32_t, int32_t>> pipeline;
  std::set<OpId> collectives;                           // the first member's op
  std::set<std::tuple<int32_t, int32_t, Group>> known;  // pipeline rank, stage
  for (const Op& op : program.ops()) {
    if (op.kind == OpKind::kSend) pipeline.emplace(op.pp_rank, *op.peer);
    if (op.group == Group::kNone || group_in_stage(op.group, l)) continue;
    if (!known.emplace(op.pp_rank, op.stage, op.group).second) continue;
    const int64_t several = op.group == Group::kExpertReplicas  ? l.ep * l.etp
                            : op.group == Group::kStageReplicas ? l.tp
                            : op.group == Group::kEmbeddings    ? l.stage_ranks()
                                                                : 1;
    for (int32_t d = 0; d < several; ++d) {
      const std::vector<OpId> ops = program.collective(program.global_id(op.id, d));
      if (!collectives.insert(ops.front()).second) continue;
      const CollectiveRing ring(plan, program, ops);
      for (const int64_t rank : ring.ranks) join(rank, ring.next(rank));
    }
  }
  for (int64_t d = 0; d < l.stage_ranks(); ++d) {
    for (const auto& [a, b] : pipeline) join(l.rank_of(a, d), l.rank_of(b, d));
  }
  for (int64_t rank = 0; rank < l.world(); ++rank) {
    for (const RankGroup& g : {l.tensor_group(), l.context_group(), l.expert_tensor_group()}) {
      if (g.size > 1) join(rank, GroupPlace(plan, g, rank).next(rank));
    }
    // All-to-alls cross the network between ranks of one position, once per pair of nodes.
    const int64_t d = l.place_of(rank).data_rank;
    const int64_t member = l.expert_index_of(d);
    const int64_t first = rank - member * l.etp;
    for (int64_t node = group.node_of(member) + 1; node < group.nodes; ++node) {
      join(rank, first + group.member(node, group.position_of(member)) * l.etp);
    }
  }
  return peers;
}

}  // namespace

GpuWorld::GpuWorld(const Plan& p, const Program& prog, const OpCosts& c)
    : plan(p), program(prog), costs(c), ranks(1, 1), group(p, 0, 0) {
  const Cluster& cluster = plan.cluster;
  if (cluster.fabric.kind != FabricKind::kIdeal && cluster.network) {
    const int64_t per_node = cluster.devices_per_node;
    fabric.emplace(cluster, round_up(plan.layout.world(), per_node));
    const int64_t block = plan.layout.expert_group().block();
    bool aligned =
        plan.layout.run() % per_node == 0 && (block % per_node == 0 || per_node % block == 0);
    for (int64_t d = 0; d < plan.layout.world(); ++d) {
      aligned &= fabric->same_network(d, d % per_node);
    }
    if (fabric->any_binding()) fabric->bind_between(cluster, network_peers(plan, program, group));
    shared_links = fabric->any_binding() || (fabric->several_networks() && !aligned);
  }
  const Layout& l = plan.layout;
  Sharing unused;
  const Network network(cluster, RankBlock::all(l), fabric ? &*fabric : nullptr, unused);
  links_of.resize(static_cast<size_t>(l.pp));
  for (int64_t r = 0; r < l.pp && l.ep > 1; ++r) {
    for (int64_t g = 0; g < l.expert_groups(); ++g) {
      GroupLinks of_group;
      const int64_t first = l.rank_of(r, l.first_of_group(g));
      const auto at = [&](int64_t member) { return first + member * l.etp; };
      for (int64_t a = 0; a < group.nodes; ++a) {
        for (int64_t b = 0; b < group.nodes; ++b) {
          const auto route =
              a == b ? std::nullopt : network.route(at(group.member(a, 0)), at(group.member(b, 0)));
          of_group.latencies.push_back(route ? route->latency : Duration());
        }
      }
      for (int64_t m = 0; m < l.ep; ++m) {
        ExchangePorts::Member ports;
        if (cluster.node_link) {
          ports.node_out = unused.capacity(network.node_ports(at(m)).out);
          ports.node_in = unused.capacity(network.node_ports(at(m)).in);
        }
        if (cluster.network) {
          ports.network_out = unused.capacity(network.network_ports(at(m)).out);
          ports.network_in = unused.capacity(network.network_ports(at(m)).in);
        }
        of_group.ports.members.push_back(ports);
      }
      const auto same = std::find(links.begin(), links.end(), of_group);
      links_of[static_cast<size_t>(r)].push_back(static_cast<int32_t>(same - links.begin()));
      if (same == links.end()) links.push_back(std::move(of_group));
    }
  }
}

void GpuWorld::level_routes() {
  Duration farthest;
  for (const GroupLinks& g : links) {
    for (const Duration latency : g.latencies) farthest = std::max(farthest, latency);
  }
  std::vector<GroupLinks> distinct;
  std::vector<int32_t> now;  // by index so far
  for (GroupLinks& g : links) {
    for (int64_t a = 0; a < group.nodes; ++a) {
      for (int64_t b = 0; b < group.nodes; ++b) {
        if (a != b) g.latencies[static_cast<size_t>(a * group.nodes + b)] = farthest;
      }
    }
    const auto same = std::find(distinct.begin(), distinct.end(), g);
    now.push_back(static_cast<int32_t>(same - distinct.begin()));
    if (same == distinct.end()) distinct.push_back(std::move(g));
  }
  links = std::move(distinct);
  for (std::vector<int32_t>& of_rank : links_of) {
    for (int32_t& index : of_rank) index = now[static_cast<size_t>(index)];
  }
}

const GpuWorld::SharedPlan& GpuWorld::shared_plan(const Op& op, int64_t rank, Bytes bytes) {
  const std::lock_guard lock(shared_plans_lock_);
  const RankGroup of_op = group_in_stage(op.group, layout()).value();
  std::vector<int8_t>& standing = standing_of_[op.group];
  if (standing.empty()) standing.resize(static_cast<size_t>(layout().world()), -1);
  int8_t& known = standing[static_cast<size_t>(rank)];
  if (known < 0) {
    const GroupPlace place(plan, of_op, rank);
    const Standing s{place.nodes, place.per_node};
    const auto at = std::find(standings_.begin(), standings_.end(), s);
    known = static_cast<int8_t>(at - standings_.begin());
    if (at == standings_.end()) standings_.push_back(s);
  }
  const bool ring = op.kind == OpKind::kRing;
  const auto [at, fresh] = shared_plans_.try_emplace({known, op.kind, op.group, bytes.count()});
  if (!fresh) return at->second;
  const Standing& s = standings_[static_cast<size_t>(known)];
  const Cluster& cluster = plan.cluster;
  if (ring) {
    // Everything goes on to the next rank: of the ranks of a node all but the last have it there.
    const Duration step = s.nodes > 1 ? cluster.network->latency : cluster.node_link->latency;
    at->second = {.node = s.per_node > 1 ? bytes : Bytes(),
                  .network = s.nodes > 1 ? bytes : Bytes(),
                  .latency = step * (of_op.size - 1)};
  } else {
    const CollectivePlan c =
        plan_collective(cluster, of_op.size / s.per_node, s.per_node, bytes, /*reduce_all=*/false);
    at->second = {.node = cluster.node_link ? c.node : Bytes(),
                  .network = cluster.network ? c.network : Bytes(),
                  .latency = c.latency};
    if (s.nodes == 1 && cluster.node_link) use_measured(op, s.per_node, at->second);
  }
  return at->second;
}

// On one node, as long as it was measured to take: what its bytes do not take on the links is
// latency.
void GpuWorld::use_measured(const Op& op, int64_t members, SharedPlan& shared) const {
  const bool sums_for_all = op.group == Group::kTensorParallel && !layout().sequence_parallel;
  const CollectiveKind kind = sums_for_all                  ? CollectiveKind::kAllReduce
                              : op.kind == OpKind::kScatter ? CollectiveKind::kReduceScatter
                                                            : CollectiveKind::kAllGather;
  const auto n = static_cast<double>(members);
  const auto sent = static_cast<double>(shared.node.count());
  const double size = sent * n / (n - 1) / (sums_for_all ? 2 : 1);
  const auto measured = costs.on_node(kind, members, Bytes(std::llround(size)));
  if (!measured || shared.node == Bytes()) return;
  const double on_links = sent / plan.cluster.node_link->bandwidth.value();
  // Switches that sum up, or links that are better than stated, carry as much in less time.
  const double carried = std::min(on_links, measured->seconds());
  shared.node = Bytes(std::llround(sent * carried / on_links));
  shared.latency = *measured - Duration::seconds(carried);
}

int64_t GpuWorld::next_of_shared(const Op& op, int64_t rank) const {
  return GroupPlace(plan, group_in_stage(op.group, layout()).value(), rank).next(rank);
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

}  // namespace rehearse
