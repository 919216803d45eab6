#include "sim/simulate.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/errors.h"
#include "sim/network.h"
#include "sim/op_cost.h"
#include "sim/sharing.h"

namespace rehearse {
namespace {

// Walks the Program: keeps, per lane, which op is next and whether it runs, and starts an op when
// its dependencies are done and, for a collective, when every member has come to it.
//
// `Work` says what an op does to the clock: begin(id, payload) starts it and lets `payload` come
// back from the queue when it ends.
template <typename Work>
class Walk {
 public:
  Walk(const Program& program, Sharing& sharing, Work& work)
      : program_(program),
        sharing_(sharing),
        work_(work),
        lanes_(static_cast<size_t>(program.layout().pp * program.replicas() * kLanes)),
        done_(static_cast<size_t>(program.global_size()), 0) {
    timeline_.source = "predicted";
    timeline_.spans.resize(static_cast<size_t>(program.global_size()));
  }

  Timeline run() {
    for (int64_t rank = 0; rank < program_.layout().pp * program_.replicas(); ++rank) {
      for (int lane = 0; lane < kLanes; ++lane) try_start(rank, lane, false);
    }
    sharing_.update(now_, queue_);
    while (!queue_.empty()) {
      const EventQueue::Event event = queue_.pop();
      now_ = Duration::picoseconds(event.time);
      uint64_t payload = 0;
      if (sharing_.finish(event.payload, payload)) handle(payload);
      if (queue_.empty() || queue_.next().time > event.time) sharing_.update(now_, queue_);
    }
    if (finished_ != program_.global_size()) report_stuck();
    return std::move(timeline_);
  }

 private:
  struct LaneState {
    size_t next = 0;  // index in the lane's list
    bool running = false;
    bool arrived = false;  // at a collective, waiting for the other members
  };

  static uint64_t tag(OpId id, bool begins) {
    return (static_cast<uint64_t>(id) << 1) | static_cast<uint64_t>(begins);
  }

  LaneState& lane(int64_t rank, int lane) {
    return lanes_[static_cast<size_t>(rank * kLanes + lane)];
  }

  std::optional<OpId> head(int64_t rank, int index) {
    const auto pp_rank = static_cast<int32_t>(rank / program_.replicas());
    const auto data_rank = static_cast<int32_t>(rank % program_.replicas());
    const auto ops = program_.lane(pp_rank, static_cast<Lane>(index));
    const size_t at = lane(rank, index).next;
    if (at == ops.size()) return std::nullopt;
    return program_.global_id(ops[at], data_rank);
  }

  bool ready(OpId id) const {
    const int32_t data_rank = program_.data_rank(id);
    for (const int32_t d : program_.dependencies(program_.op(id).id)) {
      if (!done_[static_cast<size_t>(program_.global_id(d, data_rank))]) return false;
    }
    return true;
  }

  // woken: the lane slept and is woken by an op of another lane.
  void try_start(int64_t rank, int index, bool woken) {
    LaneState& state = lane(rank, index);
    if (state.running || state.arrived) return;
    const auto id = head(rank, index);
    if (!id || !ready(*id)) return;
    if (program_.op(*id).group == Group::kNone) {
      start(*id, woken);
      return;
    }
    state.arrived = true;
    const std::vector<OpId> members = program_.collective(*id);
    for (const OpId m : members) {
      const int64_t r = program_.global_rank(m);
      const int l = static_cast<int>(program_.op(m).lane);
      if (!lane(r, l).arrived || head(r, l) != m) return;
    }
    for (const OpId m : members) start(m, woken || m != *id);
  }

  void start(OpId id, bool woken) {
    LaneState& state = lane(program_.global_rank(id), static_cast<int>(program_.op(id).lane));
    state.running = true;
    state.arrived = false;
    const Duration delay = woken ? work_.handover() : Duration();
    if (delay > Duration()) {
      sharing_.start(now_, static_cast<double>(delay.picoseconds()), 1, {}, tag(id, true));
    } else {
      begin(id);
    }
  }

  void begin(OpId id) {
    timeline_.spans[static_cast<size_t>(id)].begin = now_;
    work_.begin(now_, id, tag(id, false));
  }

  void handle(uint64_t payload) {
    const auto id = static_cast<OpId>(payload >> 1);
    if ((payload & 1) != 0) {
      begin(id);
      return;
    }
    if (work_.more(now_, id, payload)) return;
    timeline_.spans[static_cast<size_t>(id)].end = now_;
    done_[static_cast<size_t>(id)] = 1;
    ++finished_;
    const Op& op = program_.op(id);
    const int64_t rank = program_.global_rank(id);
    LaneState& state = lane(rank, static_cast<int>(op.lane));
    state.running = false;
    ++state.next;
    try_start(rank, static_cast<int>(op.lane), false);
    const int32_t data_rank = program_.data_rank(id);
    for (const int32_t d : program_.dependents(op.id)) {
      const Op& waiting = program_.ops()[static_cast<size_t>(d)];
      try_start(
          program_.global_rank({waiting.pp_rank, data_rank}), static_cast<int>(waiting.lane), true);
    }
  }

  [[noreturn]] void report_stuck() {
    std::string stuck;
    for (int64_t rank = 0; rank < program_.layout().pp * program_.replicas(); ++rank) {
      for (int index = 0; index < kLanes; ++index) {
        const auto id = head(rank, index);
        if (!id) continue;
        std::string waits = "the other members of its group";
        for (const int32_t d : program_.dependencies(program_.op(*id).id)) {
          const OpId g = program_.global_id(d, program_.data_rank(*id));
          if (!done_[static_cast<size_t>(g)]) waits = to_string(program_.op(g));
        }
        stuck += fmt::format("\n  rank {} lane {}: next {} waits for {}",
                             rank,
                             name_of(static_cast<Lane>(index)),
                             to_string(program_.op(*id)),
                             waits);
      }
    }
    throw ScheduleError("the simulated step is stuck:" + stuck);
  }

  const Program& program_;
  Sharing& sharing_;
  Work& work_;
  EventQueue queue_;
  std::vector<LaneState> lanes_;
  std::vector<char> done_;
  Timeline timeline_;
  Duration now_;
  int64_t finished_ = 0;
};

// Ops priced by a plan: computation takes a core and memory bandwidth, messages take links.
class PlanWork {
 public:
  PlanWork(const Plan& plan, const Program& program, OpCosts& costs, Sharing& sharing)
      : plan_(plan),
        program_(program),
        costs_(costs),
        sharing_(sharing),
        network_(plan.cluster, plan.layout.world(), sharing),
        in_latency_(static_cast<size_t>(program.global_size()), 0) {
    if (plan.cluster.device == DeviceKind::kCpu) {
      for (int64_t n = 0; n < plan.cluster.nodes; ++n) {
        cores_.push_back(sharing.add_resource(static_cast<double>(plan.cluster.cores)));
        memory_.push_back(sharing.add_resource(1));
      }
    }
  }

  Duration handover() const { return costs_.lane_handover(); }

  void begin(Duration now, OpId id, uint64_t payload) {
    const OpCost& cost = costs_.of(program_.op(id));
    const auto alone = static_cast<double>(cost.alone.picoseconds());
    const auto route = message_route(id, cost);
    if (route && cost.message > Bytes()) {
      sharing_.start(now,
                     static_cast<double>(cost.message.count()),
                     std::numeric_limits<double>::max(),
                     route->uses,
                     payload);
      return;
    }
    std::vector<Use> uses;
    if (!cores_.empty() && alone > 0) {
      const auto node =
          static_cast<size_t>(program_.global_rank(id) / plan_.cluster.devices_per_node);
      uses.push_back({.resource = cores_[node], .weight = 1});
      if (cost.memory_weight > 0) uses.push_back({memory_[node], cost.memory_weight});
    }
    sharing_.start(now, alone, 1, uses, payload);
  }

  // A message that has left its sender travels for the route's latency.
  bool more(Duration now, OpId id, uint64_t payload) {
    char& travelling = in_latency_[static_cast<size_t>(id)];
    if (travelling) return false;
    const auto route = message_route(id, costs_.of(program_.op(id)));
    if (!route || route->latency == Duration()) return false;
    travelling = 1;
    sharing_.start(now, static_cast<double>(route->latency.picoseconds()), 1, {}, payload);
    return true;
  }

 private:
  std::optional<Network::Route> message_route(OpId id, const OpCost& cost) const {
    if (cost.message == Bytes()) return std::nullopt;
    const Op& op = program_.op(id);
    const Place here{op.pp_rank, program_.data_rank(id)};
    Place there = here;
    if (op.kind == OpKind::kSend) {
      there.pp_rank = *op.peer;
    } else {  // a ring: to the next member
      const std::vector<Place> ring = program_.members(op, here.data_rank);
      const auto at = std::find(ring.begin(), ring.end(), here) - ring.begin();
      there = ring[static_cast<size_t>(at + 1) % ring.size()];
    }
    return network_.route(program_.global_rank(here), program_.global_rank(there));
  }

  const Plan& plan_;
  const Program& program_;
  OpCosts& costs_;
  Sharing& sharing_;
  Network network_;
  std::vector<ResourceId> cores_, memory_;  // per node
  std::vector<char> in_latency_;
};

// Unit costs: attn and mlp of a chunk's layers share its unit equally, a cell takes it whole.
class UnitWork {
 public:
  UnitWork(const Program& program, Sharing& sharing, Duration unit)
      : program_(program), sharing_(sharing), unit_(unit) {}

  Duration handover() const { return {}; }
  bool more(Duration, OpId, uint64_t) { return false; }

  void begin(Duration now, OpId id, uint64_t payload) {
    const Op& op = program_.op(id);
    int64_t units = 0;
    int64_t parts = 1;
    if (op.kind == OpKind::kCell) {
      const CellKind kind = program_.schedule(op.pp_rank)[static_cast<size_t>(op.cell)].kind;
      units = kind == CellKind::kOverlapped ? 3 : kind == CellKind::kBackward ? 2 : 1;
    } else if (op.kind == OpKind::kAttn || op.kind == OpKind::kMlp) {
      const bool mtp = *op.layer >= program_.layout().first_layer(program_.layout().pp);
      units = mtp ? 0 : 1;
      parts = 2 * program_.layout().layers_per_stage[static_cast<size_t>(op.stage)];
    }
    const double work =
        static_cast<double>(unit_.picoseconds() * units) / static_cast<double>(parts);
    sharing_.start(now, work, 1, {}, payload);
  }

 private:
  const Program& program_;
  Sharing& sharing_;
  Duration unit_;
};

}  // namespace

Prediction simulate(const Plan& plan,
                    const Program& program,
                    const std::optional<Calibration>& calibration,
                    CostPoint point) {
  Sharing sharing;
  OpCosts costs(plan, program, calibration, point);
  PlanWork work(plan, program, costs, sharing);
  Walk<PlanWork> walk(program, sharing, work);
  Prediction prediction{.timeline = walk.run(), .sources = {}};
  prediction.sources = costs.sources();
  return prediction;
}

Timeline simulate_unit_costs(const Program& program, Duration unit) {
  Sharing sharing;
  UnitWork work(program, sharing, unit);
  return Walk<UnitWork>(program, sharing, work).run();
}

}  // namespace rehearse
