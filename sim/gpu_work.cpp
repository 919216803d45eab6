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
      group_members_(static_cast<int32_t>(count == 1 ? 1 : world.group.size)),
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
  d.left = to_exact(static_cast<double>(at_speed(cost.alone, rank).picoseconds()));
  d.beside = exact_rate(cost.alone / cost.beside);
  d.since = clock_.now.picoseconds();
  schedule(d, index);
}

void GpuWork::schedule(Device& d, size_t index) {
  ++d.generation;
  wait(Duration::picoseconds(rounded_ratio(d.left, speed(d))),
       payload_of(Event::kComputed, index, d.generation));
}

// A communication kernel comes to the rank's device (+1) or leaves it (-1).
void GpuWork::communicate(int64_t rank, int32_t change) {
  const size_t index = block_.index(rank);
  Device& d = devices_[index];
  const bool matters = d.busy && (d.communicating == 0) != (d.communicating + change == 0);
  if (matters) {
    d.left = std::max<Exact>(0, d.left - speed(d) * (clock_.now.picoseconds() - d.since));
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
    if (member_of(id) == 0) begin_exchange(id);
  } else if (const auto group = group_in_stage(op.group, world_.layout())) {
    if (group->index(world_.program.data_rank(id)) == 0) begin_shared(id, *group);
  } else if (op.group != Group::kNone) {
    begin_collective(id);
  } else if (op.kind == OpKind::kSend) {
    send(id);
  } else if (op.lane == Lane::kCompute) {
    compute(id);
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
    case Event::kSharedEnds: {
      const Shared& s = shared_[high];
      if (s.active && s.generation == low) end_shared(static_cast<int32_t>(high));
      return;
    }
    case Event::kSharedFlow:
      shared_flow_ended(static_cast<int32_t>(high));
      return;
  }
}

// --- pipeline messages

// Somebody else is about to use the links of `rank`: within its node, to the network.
void GpuWork::use_links(int64_t rank, bool node, bool network) {
  Device& d = device_of(rank);
  if (d.exchange) go_live(*d.exchange);
  for (std::optional<int32_t>& slot : d.shared) {
    if (slot && shared_uses(shared_[static_cast<size_t>(*slot)], node, network)) share_links(*slot);
  }
  if (transfers_.empty()) return;
  for (const size_t t : {2 * block_.index(rank), 2 * block_.index(rank) + 1}) {
    if (transfers_[t].active) share_transfer(t);
  }
}

void GpuWork::start_flow(OpId id, int64_t from, int64_t to, Bytes bytes, Event then) {
  const auto route = network_.route(from, to);
  const bool inside = world_.plan.cluster.same_node(from, to);
  // A flow may leave by another device of its node.
  use_links(from, inside || world_.shared_links, !inside);
  use_links(to, inside || world_.shared_links, !inside);
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
