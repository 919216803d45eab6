#pragma once
// What ops do to the clock when this project's runtime executes them, on cores or on emulated
// devices.

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "plan/routing/counts.h"
#include "sim/network/network.h"
#include "sim/price/op_cost.h"
#include "sim/engine/walk.h"

namespace rehearse {

// Ops as the runtime of this project runs them, on cores or on emulated devices: computation takes
// a core and memory bandwidth (or a device of its own), messages take links. All-to-alls go in two
// phases, each rank's messages as soon as it has made them.
class HostWork {
 public:
  static constexpr bool kSpanHoldsWaiting = false;

  HostWork(const Plan& plan,
           const Program& program,
           const OpCosts& costs,
           const GroupLoad& load,
           Clock& clock)
      : plan_(plan),
        program_(program),
        costs_(costs),
        clock_(clock),
        overheads_(costs.overheads()),
        flows_of_group_(load.flows),
        network_(plan.cluster,
                 {.pp = plan.layout.pp, .dp = plan.layout.dp, .count = plan.layout.dp},
                 nullptr,
                 clock.sharing) {
    if (plan.cluster.device == DeviceKind::kCpu) {
      const int64_t machines = plan.cluster.on_host ? 1 : plan.cluster.nodes;
      for (int64_t n = 0; n < machines; ++n) {
        cores_.push_back(clock.sharing.add_resource(static_cast<double>(plan.cluster.cores)));
        memory_.push_back(clock.sharing.add_resource(1));
      }
      working_.resize(cores_.size(), 0);
    }
  }

  Duration start_delay(OpId id, bool woken) const { return woken ? wake(id) : overheads_.op_start; }
  // Ranks that wait for an all-to-all are woken by its messages, not by its beginning.
  Duration meeting_delay(OpId id) const {
    return is_exchange(program_.op(id)) ? Duration() : overheads_.collective;
  }

  // A rank's tokens leave when it has made its messages, whether or not the others have come.
  void shrink() {}
  bool pack(OpId id) {
    if (!is_exchange(program_.op(id))) return true;
    if (on_cores()) {
      compute(id, cost_of(id).pack, Event::kPacked);
      return false;
    }
    send_phase(id, 0);
    return true;
  }

  void begin(OpId id) {
    const Op& op = program_.op(id);
    if (is_exchange(op)) {
      part_of(id).begun = true;
      // The end of empty phases comes by an event, like every end.
      wait(Duration(), exchange_check(id));
    } else if (op.group == Group::kNone) {
      // A send's message is made first. Nothing else has both.
      const bool message = cost_of(id).message > Bytes();
      compute(id,
              message ? cost_of(id).pack : cost_of(id).work,
              message ? Event::kPacked : Event::kOpDone);
    } else {
      send_message(id);
    }
  }

  void event(uint64_t payload) {
    const auto kind = static_cast<Event>(payload & 7);
    const auto value = static_cast<size_t>(payload >> 3);
    const auto id = static_cast<OpId>(value);
    switch (kind) {
      case Event::kOpDone:
        left_core(id);
        if (is_exchange(program_.op(id))) exchanges_.erase(id);
        clock_.happened.push_back({id, true});
        return;
      case Event::kPacked:
        left_core(id);
        if (is_exchange(program_.op(id))) {
          part_of(id).since = clock_.now;
          send_phase(id, 0);
          clock_.happened.push_back({id, false});
        } else {
          send_message(id);
        }
        return;
      case Event::kWoken:
        // Both phases' ends wake the rank; the first is followed by forwarding.
        compute(id,
                part_of(id).phase == 1 ? cost_of(id).forward : cost_of(id).work,
                part_of(id).phase == 1 ? Event::kForwarded : Event::kOpDone);
        return;
      case Event::kForwarded:
        left_core(id);
        second_phase(id);
        return;
      case Event::kSent: {  // the last byte has left; it arrives a latency later
        const Duration latency = messages_[value].latency + message_delay(messages_[value].op);
        wait(latency, this->payload(id, Event::kArrived));
        return;
      }
      case Event::kArrived:
        break;
    }
    const Message message = messages_[value];
    free_messages_.push_back(value);
    if (message.phase) {
      arrived(message.op, *message.phase);
    } else if (program_.op(message.op).group == Group::kNone) {
      compute(message.op, cost_of(message.op).work, Event::kOpDone);
    } else {
      ring_step_arrived(message.op);
    }
  }

 private:
  enum class Event : uint8_t { kOpDone, kPacked, kForwarded, kWoken, kSent, kArrived };

  // A transfer under way and the op it belongs to: the sender's of a pipeline message or ring, the
  // receiver's of an all-to-all.
  struct Message {
    OpId op = 0;
    std::optional<int> phase;  // of an all-to-all
    Duration latency;
  };

  // One rank's part of an all-to-all: a phase ends when all its messages have come, and the second
  // one's leave when the first has ended and the rank has made them.
  struct ExchangePart {
    bool begun = false;
    bool waiting = true;  // for the messages of `phase`, since `since`
    int phase = 0;
    int64_t missing[2] = {0, 0};
    Duration since;
  };

  static uint64_t payload(OpId id, Event kind) {
    return ((static_cast<uint64_t>(id) << 3) | static_cast<uint64_t>(kind)) << 2;
  }

  // On devices of their own, ranks without links between them exchange tokens at no more than the
  // cost of their work.
  bool is_exchange(const Op& op) const {
    const bool links = plan_.cluster.node_link || plan_.cluster.network;
    return op.group == Group::kExpertParallel && is_all_to_all(op.kind) && (links || on_cores());
  }
  void wait(Duration length, uint64_t event) {
    Sharing::wait(clock_.now, length, clock_.queue, event);
  }
  bool on_cores() const { return !cores_.empty(); }

  size_t machine_of(OpId id) const {
    if (plan_.cluster.on_host) return 0;
    return static_cast<size_t>(program_.global_rank(id) / plan_.cluster.devices_per_node);
  }
  const OpCost& cost_of(OpId id) {
    return costs_.of(program_.op(id), program_.data_rank(id) % plan_.layout.ep);
  }

  Duration message_delay(OpId id) const {
    if (!on_cores()) return {};
    const bool busy = working_[machine_of(id)] >= plan_.cluster.cores;
    return busy ? overheads_.message_busy : overheads_.message_idle;
  }

  // Until a sleeping lane runs: longer where its core has gone to sleep too.
  Duration wake(OpId id) const {
    if (!on_cores()) return {};
    const bool busy = working_[machine_of(id)] >= plan_.cluster.cores - 1;
    return busy ? overheads_.wake_busy : overheads_.wake_idle;
  }

  // Local work, then `then`. On devices other than cores, messages and exchanges are made by the
  // hardware that moves them.
  void compute(OpId id, const LocalCost& cost, Event then) {
    const Op& op = program_.op(id);
    const bool free = !on_cores() && (is_exchange(op) || message_route(id).has_value());
    const double alone = free ? 0 : static_cast<double>(cost.alone.picoseconds());
    std::vector<Use> uses;
    if (on_cores()) {
      const size_t machine = machine_of(id);
      ++working_[machine];
      if (alone > 0) {
        uses.push_back({.resource = cores_[machine], .weight = 1});
        if (cost.memory_weight > 0) uses.push_back({memory_[machine], cost.memory_weight});
      }
    }
    if (uses.empty()) {
      wait(free ? Duration() : cost.alone, payload(id, then));
    } else {
      clock_.sharing.start(clock_.now, alone, 1, uses, payload(id, then));
    }
  }
  void left_core(OpId id) {
    if (on_cores()) --working_[machine_of(id)];
  }

  // The op's message over its link; where there is none, the work on it follows at once.
  void send_message(OpId id) {
    const OpCost& cost = cost_of(id);
    const auto route = cost.message > Bytes() ? message_route(id) : std::nullopt;
    if (route) {
      travel(*route, cost.message, {.op = id});
    } else {
      compute(id, cost.work, Event::kOpDone);
    }
  }

  // The message's slot; free again when it has arrived.
  OpId keep(const Message& message) {
    if (free_messages_.empty()) {
      messages_.push_back(message);
      return static_cast<OpId>(messages_.size() - 1);
    }
    const size_t slot = free_messages_.back();
    free_messages_.pop_back();
    messages_[slot] = message;
    return static_cast<OpId>(slot);
  }

  void travel(const Network::Route& route, Bytes size, Message message) {
    message.latency = route.latency;
    const OpId slot = keep(message);
    clock_.sharing.start(clock_.now,
                         static_cast<double>(size.count()),
                         Sharing::kNoBound,
                         route.uses,
                         payload(slot, Event::kSent));
  }

  // Of a pipeline message, or of a ring's step; nothing for ops that send none.
  std::optional<Network::Route> message_route(OpId id) const {
    const Op& op = program_.op(id);
    const bool in_ring = op.kind == OpKind::kGradReduce || op.kind == OpKind::kParamGather;
    if (op.kind != OpKind::kSend && !in_ring) return std::nullopt;
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
    const bool outward = is_dispatch_shaped(op.kind, op.pass);
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
    return payload(keep({.op = id, .phase = kCheck}), Event::kArrived);
  }

  void send_phase(OpId id, int phase) {
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
        travel(*route, token * f.tokens, message);
      } else {  // shared memory: at once
        wait(Duration(), payload(keep(message), Event::kArrived));
      }
    }
  }

  // A ring goes round as fast as its slowest link; then all members work on what they have.
  void ring_step_arrived(OpId id) {
    const std::vector<OpId> members = program_.collective(id);
    const auto at = rings_.try_emplace(members.front(), 0).first;
    if (++at->second < members.size()) return;
    rings_.erase(at);
    for (const OpId m : members) compute(m, cost_of(m).work, Event::kOpDone);
  }

  void arrived(OpId id, int phase) {
    if (phase != kCheck) --part_of(id).missing[phase];
    proceed(id);
  }

  // Goes on when the messages of the phase are there; a rank that slept until then wakes first.
  void proceed(OpId id) {
    ExchangePart& part = part_of(id);
    if (!part.begun || !part.waiting || part.missing[part.phase] > 0) return;
    part.waiting = false;
    ++part.phase;
    if (on_cores()) {
      // A message's delay includes waking its receiver.
      const bool linked = plan_.cluster.node_link || plan_.cluster.network;
      const Duration delay = clock_.now > part.since && !linked ? wake(id) : Duration();
      wait(delay, payload(id, Event::kWoken));
    } else if (part.phase == 1) {
      second_phase(id);
    } else {
      exchanges_.erase(id);
      clock_.happened.push_back({id, true});
    }
  }

  void second_phase(OpId id) {
    send_phase(id, 1);
    part_of(id).waiting = true;
    part_of(id).since = clock_.now;
    proceed(id);
  }

  static constexpr int kCheck = 2;

  const Plan& plan_;
  const Program& program_;
  const OpCosts& costs_;
  Clock& clock_;
  Overheads overheads_;
  const ExchangeFlows& flows_of_group_;  // the same for every group
  Network network_;
  std::vector<ResourceId> cores_, memory_;  // per machine of cores
  std::vector<int64_t> working_;            // likewise: ops that have a core or wait for one
  std::vector<Message> messages_;
  std::vector<size_t> free_messages_;
  std::unordered_map<OpId, ExchangePart> exchanges_;  // under way; never iterated
  std::unordered_map<OpId, size_t> rings_;            // members whose step arrived, likewise
};

}  // namespace rehearse
