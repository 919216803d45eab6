// GpuWork: the collectives that end a step.

#include <algorithm>
#include <cmath>

#include "sim/gpu_work.h"

namespace rehearse {

int64_t GpuWork::collective_key(OpId id) const {
  const Op& op = world_.program.op(id);
  const RankGroup group = op.group == Group::kExpertReplicas
                              ? world_.layout().expert_replica_group()
                              : world_.layout().replica_group();
  const int32_t data_rank = world_.program.data_rank(id);
  const bool of_stage = op.group != Group::kWorld && op.group != Group::kEmbeddings;
  const int64_t member = of_stage                         ? group.first(data_rank)
                         : op.group == Group::kEmbeddings ? data_rank
                                                          : 0;
  return (((static_cast<int64_t>(op.kind) * 16 + static_cast<int64_t>(op.group)) << 20 |
           (of_stage ? op.stage : 0))
          << 24) |
         member;
}

GpuWorld::Collective GpuWork::plan_of(OpId id) const {
  const Op& op = world_.program.op(id);
  const Cluster& cluster = world_.plan.cluster;
  GpuWorld::Collective c;
  const std::vector<OpId> all = world_.program.collective(id);
  for (const OpId m : all) {
    if (world_.ranks.worked_out(world_.program.data_rank(m))) c.members.push_back(m);
  }
  c.missing = c.members.size() * 3;
  c.ring = CollectiveRing(world_.plan, world_.program, all);
  const OpCost& cost = world_.costs.of(op, member_of(id));
  const bool reduce_all = cost.message == Bytes() || op.group == Group::kEmbeddings ||
                          (op.kind == OpKind::kGradReduce && world_.plan.layout.zero_stage == 0);
  c.plan = plan_collective(cluster,
                           static_cast<int64_t>(c.ring.ranks.size()) / c.ring.per_node,
                           c.ring.per_node,
                           cost.message,
                           reduce_all);
  return c;
}

const Network::Ports& GpuWork::transfer_ports(size_t transfer) const {
  const int64_t rank = block_.rank(static_cast<int64_t>(transfer / 2));
  return transfer % 2 == 0 ? network_.node_ports(rank) : network_.network_ports(rank);
}

// Sends and receives `bytes` for the collective: a matter of arithmetic while nothing else uses the
// ports, a flow from the moment that something does.
void GpuWork::transfer(OpId id, size_t transfer, Bytes bytes) {
  if (bytes == Bytes()) {
    wait(Duration(), payload_of(Event::kPart, id));
    return;
  }
  const int64_t rank = block_.rank(static_cast<int64_t>(transfer / 2));
  use_links(rank, transfer % 2 == 0, transfer % 2 == 1);
  if (transfers_.empty()) transfers_.resize(2 * devices_.size());
  Transfer& t = transfers_[transfer];
  t.op = id;
  t.bytes = static_cast<double>(bytes.count());
  t.begin = clock_.now.picoseconds();
  t.active = true;
  ++t.generation;
  const Network::Ports& ports = transfer_ports(transfer);
  if (world_.shared_links || !clock_.sharing.idle(ports.out) || !clock_.sharing.idle(ports.in)) {
    share_transfer(transfer);
    return;
  }
  const double rate =
      std::min(clock_.sharing.capacity(ports.out), clock_.sharing.capacity(ports.in));
  wait(Duration::picoseconds(static_cast<int64_t>(std::nearbyint(t.bytes / rate))),
       payload_of(Event::kTransferred, transfer, t.generation));
}

// The transfer's ports are about to be shared: what is left of it becomes a flow.
void GpuWork::share_transfer(size_t transfer) {
  Transfer& t = transfers_[transfer];
  t.active = false;
  ++t.generation;
  const Network::Ports& ports = transfer_ports(transfer);
  const double rate =
      std::min(clock_.sharing.capacity(ports.out), clock_.sharing.capacity(ports.in));
  const auto passed = static_cast<double>(clock_.now.picoseconds() - t.begin);
  const Use uses[] = {{ports.out, 1}, {ports.in, 1}};
  const double left = std::max(0.0, t.bytes - passed * rate);
  record(block_.rank(static_cast<int64_t>(transfer / 2)),
         transfer % 2 == 1,
         Duration::picoseconds(t.begin),
         clock_.now,
         t.bytes - left);
  start(left, uses, payload_of(Event::kPart, t.op));
}

void GpuWork::begin_collective(OpId id) {
  GpuWorld::Collective& c = world_.collectives[collective_key(id)];
  if (c.members.empty()) c = plan_of(id);
  const Cluster& cluster = world_.plan.cluster;
  const int64_t rank = rank_of(id);
  // Three parts per member: over the network, over NVLink, and beside them what the rank itself
  // does. Each rank's end of a link is counted at that rank; where links between switches matter,
  // the network's flows go their whole way.
  wait(at_speed(world_.costs.of(world_.program.op(id), member_of(id)).work.alone, rank),
       payload_of(Event::kPart, id));
  if (world_.shared_links && c.plan.network > Bytes()) {
    // Next ranks of some are on their switch, of others not.
    fall_out_of_step(world_.program.op(id).pp_rank);
    start_flow(id, rank, c.ring.next(rank), c.plan.network, Event::kPart);
  } else {
    transfer(id, 2 * block_.index(rank) + 1, cluster.network ? c.plan.network : Bytes());
  }
  transfer(id, 2 * block_.index(rank), cluster.node_link ? c.plan.node : Bytes());
}

void GpuWork::part_ended(OpId id) {
  const int64_t key = collective_key(id);
  GpuWorld::Collective& c = world_.collectives[key];
  if (--c.missing > 0) return;
  const Duration end = clock_.now + c.plan.latency;
  for (const OpId m : c.members) {
    GpuWork& there =
        *world_.works[static_cast<size_t>(world_.ranks.island_of(world_.program.data_rank(m)))];
    Sharing::wait(clock_.now, end - clock_.now, there.clock_.queue, payload_of(Event::kEnded, m));
    there.clock_.disturbed();
  }
  world_.collectives.erase(key);
}

}  // namespace rehearse
