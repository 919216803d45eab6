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
  out_of_step_.resize(static_cast<size_t>(world.layout().pp), world.in_step.empty());
  if (!world.load.wanted()) return;
  meter_.emplace([this](size_t port, Duration begin, Duration end, double bytes) {
    const int64_t rank = block_.rank(static_cast<int64_t>(port / kLinkKinds));
    world_.load.add(rank, static_cast<LinkKind>(port % kLinkKinds), begin, end, bytes);
  });
  for (int64_t i = 0; i < block_.size(); ++i) {
    const int64_t rank = block_.rank(i);
    if (!world.load.wants(rank)) continue;
    const auto choose = [&](const Network::Ports& ports, LinkKind out, LinkKind in) {
      meter_->choose(ports.out, static_cast<size_t>(i) * kLinkKinds + static_cast<size_t>(out));
      meter_->choose(ports.in, static_cast<size_t>(i) * kLinkKinds + static_cast<size_t>(in));
    };
    const Cluster& cluster = world.plan.cluster;
    if (cluster.node_link) choose(network_.node_ports(rank), LinkKind::kNodeOut, LinkKind::kNodeIn);
    if (cluster.network) {
      choose(network_.network_ports(rank), LinkKind::kNetworkOut, LinkKind::kNetworkIn);
    }
  }
  clock.sharing.before_changes([this](Duration now) { meter_->settle(now, clock_.sharing); });
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
      flow_ended(static_cast<int32_t>(high), low);
      return;
    }
    case Event::kPart:
      part_ended(of_op);
      return;
    case Event::kTransferred: {
      Transfer& t = transfers_[high];
      if (!t.active || t.generation != low) return;
      t.active = false;
      record(block_.rank(static_cast<int64_t>(high / 2)),
             high % 2 == 1,
             Duration::picoseconds(t.begin),
             clock_.now,
             t.bytes);
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
  start(static_cast<double>(bytes.count()), route->uses, payload_of(then, id));
}

// Something that shares links with others.
ActivityId GpuWork::start(double work, std::span<const Use> uses, uint64_t payload) {
  const ActivityId id = clock_.sharing.start(clock_.now, work, Sharing::kNoBound, uses, payload);
  if (meter_) meter_->started(id, uses, work, clock_.sharing);
  return id;
}

// What a rank's ports carried, out and in, while nothing else used them.
void GpuWork::record(int64_t rank, bool across, Duration begin, Duration end, double bytes) {
  if (bytes <= 0 || !world_.load.wants(rank)) return;
  for (const LinkKind k : {across ? LinkKind::kNetworkOut : LinkKind::kNodeOut,
                           across ? LinkKind::kNetworkIn : LinkKind::kNodeIn}) {
    world_.load.add(rank, k, begin, end, bytes);
  }
}

void GpuWork::send(OpId id) {
  const Op& op = world_.program.op(id);
  const int64_t from = rank_of(id);
  const int64_t to = world_.program.global_rank({*op.peer, world_.program.data_rank(id)});
  if (out_of_step_[static_cast<size_t>(op.pp_rank)]) {
    fall_out_of_step(*op.peer);
  }
  if (!network_.route(from, to)) {
    clock_.happened.push_back({id, true});
    return;
  }
  start_flow(id, from, to, world_.costs.of(op, member_of(id)).message, Event::kSent);
}

}  // namespace rehearse
