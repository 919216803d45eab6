#include "sim/simulate.h"

#include <algorithm>
#include <unordered_map>

#include <fmt/format.h>

#include "base/errors.h"
#include "plan/routing.h"
#include "sim/network.h"
#include "sim/op_cost.h"
#include "sim/sharing.h"

namespace rehearse {
namespace {

// Walks the Program: keeps, per lane, which op is next and whether it runs, and starts an op when
// its dependencies are done and, for a collective, when every member has come to it.
//
// `Work` says what an op does to the clock: arrive(now, id) when a rank has come to a collective,
// begin(now, id) when all members have (or it is none) starts its activities; what comes back
// from the queue goes to event(now, payload), which answers with the ops that thereby ended.
// Payloads with the lowest bit set are the Walk's own.
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

  Timeline run(const std::function<void(int64_t ops_done)>& progress = {}) {
    constexpr int64_t kTellEvery = 1 << 16;  // ops
    for (int64_t rank = 0; rank < program_.layout().pp * program_.replicas(); ++rank) {
      for (int lane = 0; lane < kLanes; ++lane) try_start(rank, lane, false);
    }
    sharing_.update(now_, queue_);
    while (!queue_.empty()) {
      const EventQueue::Event event = queue_.pop();
      now_ = Duration::picoseconds(event.time);
      uint64_t payload = 0;
      const int64_t before = finished_;
      if (sharing_.finish(event.payload, payload)) handle(payload);
      if (progress && finished_ / kTellEvery != before / kTellEvery) progress(finished_);
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
    work_.arrive(now_, *id);
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
      sharing_.start(now_,
                     static_cast<double>(delay.picoseconds()),
                     1,
                     {},
                     (static_cast<uint64_t>(id) << 1) | 1);
    } else {
      begin(id);
    }
  }

  void begin(OpId id) {
    timeline_.spans[static_cast<size_t>(id)].begin = now_;
    work_.begin(now_, id);
  }

  void handle(uint64_t payload) {
    if ((payload & 1) != 0) {
      begin(static_cast<OpId>(payload >> 1));
      return;
    }
    ended_.clear();
    work_.event(now_, payload >> 1, ended_);
    for (const OpId id : ended_) end(id);
  }

  void end(OpId id) {
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
  std::vector<OpId> ended_;
};

// Ops priced by a plan: computation takes a core and memory bandwidth (or a device of its own),
// messages take links.
class PlanWork {
 public:
  PlanWork(const Plan& plan, const Program& program, OpCosts& costs, Sharing& sharing)
      : plan_(plan),
        program_(program),
        costs_(costs),
        sharing_(sharing),
        network_(plan.cluster, plan.layout.world(), sharing) {
    if (plan.cluster.device == DeviceKind::kCpu) {
      for (int64_t n = 0; n < plan.cluster.nodes; ++n) {
        cores_.push_back(sharing.add_resource(static_cast<double>(plan.cluster.cores)));
        memory_.push_back(sharing.add_resource(1));
      }
    }
    if (plan.layout.ep > 1) {
      const ExpertGroup group(plan, 0, 0);
      flows_of_group_ = exchange_flows(group, balanced_routing(plan, group));
    }
  }

  Duration handover() const { return costs_.lane_handover(); }

  // A rank's tokens leave when it has come, whether or not the others have.
  void arrive(Duration now, OpId id) {
    if (is_exchange(program_.op(id))) send_phase(now, id, 0);
  }

  void begin(Duration now, OpId id) {
    const Op& op = program_.op(id);
    if (is_exchange(op)) {
      part_of(id).begun = true;
      // The end of empty phases comes by an event, like every end.
      sharing_.start(now, 0, 1, {}, exchange_check(id));
      return;
    }
    const OpCost& cost = costs_.of(op);
    if (cost.message > Bytes()) {
      const auto route = message_route(id);
      if (route) {
        travel(now, *route, cost.message, {.op = id});
        return;
      }
    }
    const auto alone = static_cast<double>(cost.alone.picoseconds());
    std::vector<Use> uses;
    if (!cores_.empty() && alone > 0) {
      const auto node =
          static_cast<size_t>(program_.global_rank(id) / plan_.cluster.devices_per_node);
      uses.push_back({.resource = cores_[node], .weight = 1});
      if (cost.memory_weight > 0) uses.push_back({memory_[node], cost.memory_weight});
    }
    sharing_.start(now, alone, 1, uses, payload(id, Event::kOpDone));
  }

  void event(Duration now, uint64_t payload, std::vector<OpId>& ended) {
    const auto kind = static_cast<Event>(payload & 3);
    if (kind == Event::kOpDone) {
      ended.push_back(static_cast<OpId>(payload >> 2));
      return;
    }
    const auto slot = static_cast<size_t>(payload >> 2);
    if (kind == Event::kSent) {  // the last byte has left; it arrives a latency later
      const Duration latency = messages_[slot].latency;
      sharing_.start(now,
                     static_cast<double>(latency.picoseconds()),
                     1,
                     {},
                     this->payload(static_cast<OpId>(slot), Event::kArrived));
      return;
    }
    const Message message = messages_[slot];
    free_messages_.push_back(slot);
    if (message.phase) {
      if (arrived(now, message.op, *message.phase)) ended.push_back(message.op);
    } else if (program_.op(message.op).group == Group::kNone) {
      ended.push_back(message.op);
    } else {
      ring_step_arrived(message.op, ended);
    }
  }

 private:
  enum class Event : uint8_t { kOpDone, kSent, kArrived };

  // A transfer under way and the op it belongs to: the sender's of a pipeline message or ring, the
  // receiver's of an all-to-all.
  struct Message {
    OpId op = 0;
    std::optional<int> phase;  // of an all-to-all
    Duration latency;
  };

  // One rank's part of an all-to-all: a phase ends when all its messages have come, and the second
  // one's leave when the first has ended.
  struct ExchangePart {
    bool begun = false;
    int phase = 0;
    int64_t missing[2] = {0, 0};
  };

  static uint64_t payload(OpId id, Event kind) {
    return ((static_cast<uint64_t>(id) << 2) | static_cast<uint64_t>(kind)) << 1;
  }

  bool is_exchange(const Op& op) const {
    const bool links = plan_.cluster.node_link || plan_.cluster.network;
    return op.group == Group::kExpertParallel && links;
  }

  void travel(Duration now, const Network::Route& route, Bytes size, Message message) {
    message.latency = route.latency;
    size_t slot = messages_.size();
    if (free_messages_.empty()) {
      messages_.push_back(message);
    } else {
      slot = free_messages_.back();
      free_messages_.pop_back();
      messages_[slot] = message;
    }
    sharing_.start(now,
                   static_cast<double>(size.count()),
                   std::numeric_limits<double>::max(),
                   route.uses,
                   payload(static_cast<OpId>(slot), Event::kSent));
  }

  std::optional<Network::Route> message_route(OpId id) const {
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

  // Dispatch goes across nodes, then within; combine within, then across, backwards.
  struct PhaseFlows {
    const std::vector<ExchangeFlow>& flows;
    bool backwards;
  };
  PhaseFlows phase_flows(const Op& op, int phase) const {
    const bool outward = (op.kind == OpKind::kDispatch) == (op.pass == Pass::kForward);
    const bool across = (phase == 0) == outward;
    return {across ? flows_of_group_.across : flows_of_group_.within, !outward};
  }

  ExchangePart& part_of(OpId id) {
    const auto [at, fresh] = exchanges_.try_emplace(id);
    if (fresh) {
      const auto me = program_.data_rank(id) % plan_.layout.ep;
      for (int phase = 0; phase < 2; ++phase) {
        const PhaseFlows p = phase_flows(program_.op(id), phase);
        for (const ExchangeFlow& f : p.flows) {
          if ((p.backwards ? f.from : f.to) == me) ++at->second.missing[phase];
        }
      }
    }
    return at->second;
  }

  uint64_t exchange_check(OpId id) {
    messages_.push_back({.op = id, .phase = kCheck});
    return payload(static_cast<OpId>(messages_.size() - 1), Event::kArrived);
  }

  void send_phase(Duration now, OpId id, int phase) {
    const Op& op = program_.op(id);
    const int32_t data_rank = program_.data_rank(id);
    const auto me = data_rank % plan_.layout.ep;
    const auto first = static_cast<int32_t>(data_rank - me);
    const Bytes token = exchange_message(plan_, op.kind, op.pass);
    const PhaseFlows p = phase_flows(op, phase);
    for (const ExchangeFlow& f : p.flows) {
      const int64_t from = p.backwards ? f.to : f.from;
      const int64_t to = p.backwards ? f.from : f.to;
      if (from != me) continue;
      const Place there{op.pp_rank, static_cast<int32_t>(first + to)};
      const Message message{.op = program_.global_id(op.id, there.data_rank), .phase = phase};
      const auto route = network_.route(program_.global_rank({op.pp_rank, data_rank}),
                                        program_.global_rank(there));
      if (route) {
        travel(now, *route, token * f.tokens, message);
      } else {  // shared memory: at once
        messages_.push_back(message);
        sharing_.start(
            now, 0, 1, {}, payload(static_cast<OpId>(messages_.size() - 1), Event::kArrived));
      }
    }
  }

  // A ring goes round as fast as its slowest link: all members end together.
  void ring_step_arrived(OpId id, std::vector<OpId>& ended) {
    const std::vector<OpId> members = program_.collective(id);
    const auto at = rings_.try_emplace(members.front(), 0).first;
    if (++at->second < members.size()) return;
    rings_.erase(at);
    ended.insert(ended.end(), members.begin(), members.end());
  }

  // Whether that was the last message of the op.
  bool arrived(Duration now, OpId id, int phase) {
    ExchangePart& part = part_of(id);
    if (phase != kCheck) --part.missing[phase];
    if (!part.begun) return false;
    if (part.phase == 0 && part.missing[0] == 0) {
      part.phase = 1;
      send_phase(now, id, 1);
    }
    if (part.phase == 0 || part.missing[1] > 0) return false;
    exchanges_.erase(id);
    return true;
  }

  static constexpr int kCheck = 2;

  const Plan& plan_;
  const Program& program_;
  OpCosts& costs_;
  Sharing& sharing_;
  Network network_;
  std::vector<ResourceId> cores_, memory_;  // per node
  ExchangeFlows flows_of_group_;            // by member; the same for every group
  std::vector<Message> messages_;
  std::vector<size_t> free_messages_;
  std::unordered_map<OpId, ExchangePart> exchanges_;  // under way; never iterated
  std::unordered_map<OpId, size_t> rings_;            // members whose step arrived, likewise
};

// Unit costs: attn and mlp of a chunk's layers share its unit equally, a cell takes it whole.
class UnitWork {
 public:
  UnitWork(const Program& program, Sharing& sharing, Duration unit)
      : program_(program), sharing_(sharing), unit_(unit) {}

  Duration handover() const { return {}; }
  void arrive(Duration, OpId) {}
  void event(Duration, uint64_t payload, std::vector<OpId>& ended) {
    ended.push_back(static_cast<OpId>(payload));
  }

  void begin(Duration now, OpId id) {
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
    sharing_.start(now, work, 1, {}, static_cast<uint64_t>(id) << 1);
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
                    CostPoint point,
                    const std::function<void(int64_t ops_done)>& progress) {
  Sharing sharing;
  OpCosts costs(plan, program, calibration, point);
  PlanWork work(plan, program, costs, sharing);
  Walk<PlanWork> walk(program, sharing, work);
  Prediction prediction{.timeline = walk.run(progress), .sources = {}};
  prediction.sources = costs.sources();
  return prediction;
}

Timeline simulate_unit_costs(const Program& program, Duration unit) {
  Sharing sharing;
  UnitWork work(program, sharing, unit);
  return Walk<UnitWork>(program, sharing, work).run();
}

}  // namespace rehearse
