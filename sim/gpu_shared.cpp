// GpuWork: collectives of ranks that share matrices, a sequence or experts' matrices, within cells.

#include <algorithm>
#include <cmath>

#include "sim/gpu_work.h"

namespace rehearse {
namespace {

// By lane: of the three that carry such collectives.
size_t lane_index(Lane lane) {
  return lane == Lane::kTensor ? 0 : lane == Lane::kContext ? 1 : 2;
}

}  // namespace

OpId GpuWork::shared_op(const Shared& s, int32_t member) const {
  return s.op + member * s.group.stride * static_cast<OpId>(world_.program.ops().size());
}

// All members have come: their flows leave, each over its rank's own ends of the links.
void GpuWork::begin_shared(OpId id, const RankGroup& group) {
  const Op& op = world_.program.op(id);
  int32_t slot;
  if (free_shared_.empty()) {
    slot = static_cast<int32_t>(shared_.size());
    shared_.emplace_back();
  } else {
    slot = free_shared_.back();
    free_shared_.pop_back();
  }
  Shared& s = shared_[static_cast<size_t>(slot)];
  s.active = true;
  s.live = false;
  ++s.generation;
  s.op = id;
  s.group = group;
  s.begin = clock_.now;
  const GpuWorld::SharedPlan& plan =
      world_.shared_plan(op, rank_of(id), world_.costs.of(op, member_of(id)).message);
  s.node = plan.node;
  s.network = plan.network;
  s.latency = plan.latency;
  const int32_t members = shared_members(s);
  double slowest = 0;  // picoseconds
  bool idle = !(world_.shared_links && s.network > Bytes());
  for (int32_t m = 0; m < members; ++m) {
    const OpId of_member = shared_op(s, m);
    const int64_t rank = rank_of(of_member);
    // What else is on these links shares them from here on.
    use_links(rank, s.node > Bytes(), s.network > Bytes());
    const auto port = [&](Bytes bytes, const Network::Ports& p) {
      idle &= clock_.sharing.idle(p.out) && clock_.sharing.idle(p.in);
      const double rate = std::min(clock_.sharing.capacity(p.out), clock_.sharing.capacity(p.in));
      slowest = std::max(slowest, static_cast<double>(bytes.count()) / rate);
    };
    if (s.node > Bytes()) port(s.node, network_.node_ports(rank));
    if (s.network > Bytes()) port(s.network, network_.network_ports(rank));
  }
  s.carried = Duration::picoseconds(static_cast<int64_t>(std::nearbyint(slowest)));
  if (!idle) {
    share_links(slot);
    return;
  }
  for (int32_t m = 0; m < members; ++m) {
    device_of(rank_of(shared_op(s, m))).shared[lane_index(op.lane)] = slot;
  }
  wait(s.carried + s.latency,
       payload_of(Event::kSharedEnds, static_cast<size_t>(slot), s.generation));
}

// Others come to its links, or are there: what is left of it becomes flows.
void GpuWork::share_links(int32_t slot) {
  Shared& s = shared_[static_cast<size_t>(slot)];
  const size_t lane = lane_index(world_.program.op(s.op).lane);
  record_shared(s);
  s.live = true;
  ++s.generation;
  const double passed = (clock_.now - s.begin).seconds();
  const double whole = s.carried.seconds();
  const double left = whole > 0 ? std::max(0.0, 1 - passed / whole) : 0;
  s.missing = 1;                         // this call itself
  if (left > 0) s.carried = Duration();  // its flows tell from here on
  for (int32_t m = 0; m < shared_members(s); ++m) {
    const OpId id = shared_op(s, m);
    const int64_t rank = rank_of(id);
    device_of(rank).shared[lane].reset();
    const auto flow = [&](Bytes bytes, std::span<const Use> uses) {
      if (bytes == Bytes() || left == 0) return;
      start(static_cast<double>(bytes.count()) * left,
            uses,
            payload_of(Event::kSharedFlow, static_cast<size_t>(slot), 0));
      ++s.missing;
    };
    const auto ends = [](const Network::Ports& p) {
      return std::array<Use, 2>{{{p.out, 1}, {p.in, 1}}};
    };
    if (s.node > Bytes()) flow(s.node, ends(network_.node_ports(rank)));
    if (s.network == Bytes()) continue;
    if (world_.shared_links) {
      fall_out_of_step(world_.program.op(id).pp_rank);
      flow(s.network,
           network_.route(rank, world_.next_of_shared(world_.program.op(id), rank))->uses);
    } else {
      flow(s.network, ends(network_.network_ports(rank)));
    }
  }
  shared_flow_ended(slot);
}

void GpuWork::shared_flow_ended(int32_t slot) {
  Shared& s = shared_[static_cast<size_t>(slot)];
  if (--s.missing > 0) return;
  // Latencies of all steps from where the last byte was carried; a lone one that had carried all
  // has waited for some of them.
  const Duration carried = s.carried > Duration() ? s.begin + s.carried : clock_.now;
  const Duration end = carried + s.latency;
  wait(std::max(clock_.now, end) - clock_.now,
       payload_of(Event::kSharedEnds, static_cast<size_t>(slot), s.generation));
}

// What a lone one has carried until now.
void GpuWork::record_shared(const Shared& s) {
  if (!meter_ || s.carried == Duration()) return;
  const Duration end = std::min(clock_.now, s.begin + s.carried);
  const double part = (end - s.begin) / s.carried;
  for (int32_t m = 0; m < shared_members(s); ++m) {
    const int64_t rank = rank_of(shared_op(s, m));
    record(rank, false, s.begin, end, part * static_cast<double>(s.node.count()));
    record(rank, true, s.begin, end, part * static_cast<double>(s.network.count()));
  }
}

void GpuWork::end_shared(int32_t slot) {
  Shared& s = shared_[static_cast<size_t>(slot)];
  const size_t lane = lane_index(world_.program.op(s.op).lane);
  if (!s.live) record_shared(s);
  for (int32_t m = 0; m < shared_members(s); ++m) {
    const OpId id = shared_op(s, m);
    const int64_t rank = rank_of(id);
    device_of(rank).shared[lane].reset();
    communicate(rank, -1);
    clock_.happened.push_back({id, true});
  }
  s.active = false;
  ++s.generation;
  free_shared_.push_back(slot);
}

}  // namespace rehearse
