#include "sim/gpu_work.h"

#include <algorithm>
#include <cmath>

namespace rehearse {

GpuWork::GpuWork(
    GpuWorld& world, const ExpertLoad& load, Clock& clock, int32_t first, int32_t count)
    : world_(world),
      load_(load),
      clock_(clock),
      count_(count),
      group_members_(static_cast<int32_t>(std::min<int64_t>(world.group.size, count))),
      block_{.layout = world.plan.layout, .first = first, .count = count},
      network_(world.plan.cluster, block_, world.fabric ? &*world.fabric : nullptr, clock.sharing),
      devices_(static_cast<size_t>(block_.size())) {
  world.works.push_back(this);
}

// --- computation

LocalCost GpuWork::local_cost(OpId id) {
  const Op& op = world_.program.op(id);
  const bool moe = op.layer && world_.plan.model.architecture.is_moe(*op.layer);
  if (moe && op.kind == OpKind::kMlp && !load_.uniform()) {
    const GroupLoad& load = load_.of(*op.layer, *op.micro_batch, group_of(id));
    return world_.costs.price_work(op, load.members[static_cast<size_t>(member_of(id))]);
  }
  return world_.costs.of(op, member_of(id)).work;
}

// Ranks that share a sequence gather each other's part of it, before the op computes: an all-gather
// as any other, over each rank's ends of the links, beside whatever else is on them.
void GpuWork::gather(OpId id) {
  const Cluster& cluster = world_.plan.cluster;
  const int64_t rank = rank_of(id);
  const ContextGroup group(world_.plan, rank);
  const Bytes bytes = world_.costs.of(world_.program.op(id), member_of(id)).gathered;
  const CollectivePlan plan = plan_collective(
      cluster, group.size / group.per_node, group.per_node, bytes, /*reduce_all=*/false);
  Device& d = device_of(rank);
  d.gather_latency = plan.latency;
  d.gathering = 1;  // this call itself
  use_links(rank);
  const auto flow = [&](Bytes size, const Network::Ports& ports) {
    const Use uses[] = {{ports.out, 1}, {ports.in, 1}};
    clock_.sharing.start(clock_.now,
                         static_cast<double>(size.count()),
                         Sharing::kNoBound,
                         uses,
                         payload_of(Event::kGathered, id));
    ++d.gathering;
  };
  if (cluster.node_link && plan.node > Bytes()) flow(plan.node, network_.node_ports(rank));
  if (cluster.network && plan.network > Bytes()) {
    if (world_.shared_links) {
      start_flow(id, rank, group.next(rank), plan.network, Event::kGathered);
      ++d.gathering;
    } else {
      flow(plan.network, network_.network_ports(rank));
    }
  }
  record_collective(rank, plan);
  gathered(id);
}

void GpuWork::gathered(OpId id) {
  Device& d = device_of(rank_of(id));
  if (--d.gathering > 0) return;
  if (d.gather_latency > Duration()) {
    d.gathering = 1;
    wait(d.gather_latency, payload_of(Event::kGathered, id));
    d.gather_latency = {};
    return;
  }
  compute(id);
}

void GpuWork::compute(OpId id) {
  const LocalCost cost = local_cost(id);
  if (cost.alone == Duration()) {
    clock_.happened.push_back({id, true});
    return;
  }
  const int64_t rank = rank_of(id);
  const size_t index = block_.index(rank);
  Device& d = devices_[index];
  CHECK(!d.busy) << "two ops compute on rank " << rank;
  d.op = id;
  d.busy = true;
  d.left = static_cast<double>(at_speed(cost.alone, rank).picoseconds());
  d.beside = cost.alone / cost.beside;
  d.since = clock_.now.picoseconds();
  schedule(d, index);
}

void GpuWork::schedule(Device& d, size_t index) {
  const double time = std::nearbyint(d.left / speed(d));
  ++d.generation;
  wait(Duration::picoseconds(static_cast<int64_t>(time)),
       payload_of(Event::kComputed, index, d.generation));
}

// A communication kernel comes to the rank's device (+1) or leaves it (-1).
void GpuWork::communicate(int64_t rank, int32_t change) {
  const size_t index = block_.index(rank);
  Device& d = devices_[index];
  const bool matters = d.busy && (d.communicating == 0) != (d.communicating + change == 0);
  if (matters) {
    const auto passed = static_cast<double>(clock_.now.picoseconds() - d.since);
    d.left = std::max(0.0, d.left - passed * speed(d));
    d.since = clock_.now.picoseconds();
  }
  d.communicating += change;
  if (matters) schedule(d, index);
}

// --- ops

bool GpuWork::pack(OpId id) {
  // The kernel waits for the other ranks on the device.
  communicate(rank_of(id), +1);
  return true;
}

void GpuWork::begin(OpId id) {
  const Op& op = world_.program.op(id);
  if (is_exchange(op)) {
    if (world_.program.data_rank(id) % group_members_ == 0) begin_exchange(id);
  } else if (op.group != Group::kNone) {
    begin_collective(id);
  } else if (op.kind == OpKind::kSend) {
    send(id);
  } else if (op.lane == Lane::kCompute) {
    const bool gathers = world_.costs.of(op, member_of(id)).gathered > Bytes();
    gathers ? gather(id) : compute(id);
  } else {  // a lone rank's dispatch and combine, recv
    const LocalCost cost = local_cost(id);
    if (op.kind == OpKind::kRecv || cost.alone == Duration()) {
      clock_.happened.push_back({id, true});
    } else {
      wait(at_speed(cost.alone, rank_of(id)), payload_of(Event::kEnded, id));
    }
  }
}

void GpuWork::event(uint64_t what) {
  const auto high = static_cast<size_t>(payload::high(what));
  const auto low = static_cast<uint32_t>(payload::low(what));
  const auto of_op = static_cast<OpId>(payload::value(what));
  switch (payload::kind<Event>(what)) {
    case Event::kEnded: {
      const OpId id = of_op;
      if (world_.program.op(id).group != Group::kNone) communicate(rank_of(id), -1);
      clock_.happened.push_back({id, true});
      return;
    }
    case Event::kComputed: {
      Device& d = devices_[high];
      if (!d.busy || d.generation != low) return;
      d.busy = false;
      clock_.happened.push_back({d.op, true});
      return;
    }
    case Event::kSent: {
      const OpId id = of_op;
      const Op& op = world_.program.op(id);
      const int64_t to = world_.program.global_rank({*op.peer, world_.program.data_rank(id)});
      record_send(id, to);
      wait(network_.route(rank_of(id), to)->latency, payload_of(Event::kEnded, id));
      return;
    }
    case Event::kExchangeEnds: {
      Exchange& x = exchanges_[high];
      if (!x.active || x.live || x.generation != low) return;
      const Duration end = clock_.now - x.begin;
      for (int32_t m = 0; m < group_members_ && exchanges_[high].active; ++m) {
        if ((*exchanges_[high].ends)[static_cast<size_t>(m)] == end) {
          end_member(static_cast<int32_t>(high), m);
        }
      }
      return;
    }
    case Event::kExchangeFlow: {
      // A live exchange: `low` counts flows, and then members whose ends were put off.
      Exchange& x = exchanges_[high];
      const auto flows = static_cast<uint32_t>(x.shape->flows.size());
      if (low >= flows) {
        end_member(static_cast<int32_t>(high), static_cast<int32_t>(low - flows));
        return;
      }
      ends_.clear();
      x.run->flow_ended(low, clock_.now - x.begin, ends_);
      schedule_ends(static_cast<int32_t>(high), ends_);
      return;
    }
    case Event::kPart:
      part_ended(of_op);
      return;
    case Event::kTransferred: {
      Transfer& t = transfers_[high];
      if (!t.active || t.generation != low) return;
      t.active = false;
      part_ended(t.op);
      return;
    }
    case Event::kGathered:
      gathered(of_op);
      return;
  }
}

// --- pipeline messages

// Somebody else is about to use the links of `rank`.
void GpuWork::use_links(int64_t rank) {
  if (const auto slot = device_of(rank).exchange) go_live(*slot);
  if (transfers_.empty()) return;
  for (const size_t t : {2 * block_.index(rank), 2 * block_.index(rank) + 1}) {
    if (transfers_[t].active) share_transfer(t);
  }
}

void GpuWork::start_flow(OpId id, int64_t from, int64_t to, Bytes bytes, Event then) {
  const auto route = network_.route(from, to);
  use_links(from);
  use_links(to);
  clock_.sharing.start(clock_.now,
                       static_cast<double>(bytes.count()),
                       Sharing::kNoBound,
                       route->uses,
                       payload_of(then, id));
}

void GpuWork::record_send(OpId id, int64_t to) {
  const int64_t from = rank_of(id);
  if (!world_.load.wants(from) && !world_.load.wants(to)) return;
  const Duration begin = send_begins_.at(id);
  send_begins_.erase(id);
  const bool inside = world_.plan.cluster.same_node(from, to);
  const auto bytes =
      static_cast<double>(world_.costs.of(world_.program.op(id), member_of(id)).message.count());
  if (world_.load.wants(from)) {
    world_.load.add(
        from, inside ? LinkKind::kNodeOut : LinkKind::kNetworkOut, begin, clock_.now, bytes);
  }
  if (world_.load.wants(to)) {
    world_.load.add(
        to, inside ? LinkKind::kNodeIn : LinkKind::kNetworkIn, begin, clock_.now, bytes);
  }
}

void GpuWork::send(OpId id) {
  const Op& op = world_.program.op(id);
  const int64_t from = rank_of(id);
  const int64_t to = world_.program.global_rank({*op.peer, world_.program.data_rank(id)});
  if (!network_.route(from, to)) {
    clock_.happened.push_back({id, true});
    return;
  }
  if (world_.load.wants(from) || world_.load.wants(to)) send_begins_[id] = clock_.now;
  start_flow(id, from, to, world_.costs.of(op, member_of(id)).message, Event::kSent);
}

}  // namespace rehearse
