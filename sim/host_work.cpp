#include "sim/host_work.h"

#include <algorithm>

namespace rehearse {

HostWork::HostWork(
    const Plan& plan, const Program& program, const OpCosts& costs, ExpertLoad& load, Clock& clock)
    : plan_(plan),
      program_(program),
      costs_(costs),
      clock_(clock),
      overheads_(costs.overheads()),
      network_(plan.cluster, RankBlock::all(plan.layout), nullptr, clock.sharing),
      load_(load) {
  const int64_t cores = on_cores() ? plan.cluster.cores : costs.emulating_cores();
  if (cores > 0) {
    const int64_t machines = on_cores() && !plan.cluster.on_host ? plan.cluster.nodes : 1;
    for (int64_t n = 0; n < machines; ++n) {
      cores_.push_back(clock.sharing.add_resource(static_cast<double>(cores)));
      memory_.push_back(clock.sharing.add_resource(1));
    }
    working_.resize(cores_.size(), 0);
  }
}

const GroupLoad& HostWork::load_of(OpId id) const {
  const Op& op = program_.op(id);
  return load_.of(*op.layer, *op.micro_batch, plan_.layout.expert_group_of(program_.data_rank(id)));
}

const OpCost& HostWork::cost_of(OpId id) const {
  const Op& op = program_.op(id);
  const bool own = !load_.uniform() && op.layer && op.micro_batch &&
                   plan_.model.architecture.is_moe(*op.layer) &&
                   (op.kind == OpKind::kMlp || is_all_to_all(op.kind));
  if (!own) return costs_.of(op, member_of(id));
  const auto [at, fresh] = own_costs_.try_emplace(id);
  if (fresh) {
    at->second = costs_.price(op, load_of(id).members[static_cast<size_t>(member_of(id))]);
  }
  return at->second;
}

bool HostWork::pack(OpId id) {
  if (!is_exchange(program_.op(id))) return true;
  if (on_cores()) {
    compute(id, cost_of(id).pack, Event::kPacked);
    return false;
  }
  first_phase(id);
  return true;
}

void HostWork::begin(OpId id) {
  const Op& op = program_.op(id);
  if (is_exchange(op)) {
    part_of(id).begun = true;
    // The end of empty phases comes by an event, like every end.
    wait(Duration(), payload_of(id, Event::kBegun));
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

void HostWork::event(uint64_t what) {
  const auto value = static_cast<size_t>(payload::value(what));
  const auto id = static_cast<OpId>(value);
  switch (payload::kind<Event>(what)) {
    case Event::kOpDone:
      left_core(id);
      if (is_exchange(program_.op(id))) exchanges_.erase(id);
      clock_.happened.push_back({id, true});
      return;
    case Event::kPacked:
      left_core(id);
      if (is_exchange(program_.op(id))) {
        part_of(id).since = clock_.now;
        first_phase(id);
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
      wait(latency, payload_of(id, Event::kArrived));
      return;
    }
    case Event::kBegun:
      proceed(id);
      return;
    case Event::kWorked: {
      const HeldWork& work = held_[value];
      free_held_.push_back(value);
      wait(std::max(Duration(), work.until - clock_.now), payload_of(work.op, work.then));
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

Duration HostWork::wake(OpId id) const {
  if (!on_cores()) return {};
  const bool busy = working_[machine_of(id)] >= plan_.cluster.cores - 1;
  return busy ? overheads_.wake_busy : overheads_.wake_idle;
}

void HostWork::compute(OpId id, const LocalCost& cost, Event then) {
  const Op& op = program_.op(id);
  const bool free = !on_cores() && (is_exchange(op) || message_route(id).has_value());
  const double alone = free ? 0 : static_cast<double>(cost.alone.picoseconds());
  std::vector<Use> uses;
  if (on_cores()) ++working_[machine_of(id)];
  if (!cores_.empty()) {
    const size_t machine = machine_of(id);
    if (alone > 0) {
      uses.push_back({.resource = cores_[machine], .weight = 1});
      if (cost.memory_weight > 0) uses.push_back({memory_[machine], cost.memory_weight});
    }
  }
  uint64_t done = payload_of(id, then);
  if (uses.empty()) {
    wait(free ? Duration() : std::max(cost.alone, cost.held), done);
    return;
  }
  if (cost.held > Duration()) {
    if (free_held_.empty()) {
      free_held_.push_back(held_.size());
      held_.emplace_back();
    }
    const size_t slot = free_held_.back();
    free_held_.pop_back();
    held_[slot] = {.op = id, .then = then, .until = clock_.now + cost.held};
    done = payload_of(static_cast<OpId>(slot), Event::kWorked);
  }
  clock_.sharing.start(clock_.now, alone, 1, uses, done);
}

void HostWork::send_message(OpId id) {
  const OpCost& cost = cost_of(id);
  const auto route = cost.message > Bytes() ? message_route(id) : std::nullopt;
  if (route) {
    travel(*route, cost.message, {.op = id});
  } else {
    compute(id, cost.work, Event::kOpDone);
  }
}

OpId HostWork::keep(const Message& message) {
  if (free_messages_.empty()) {
    messages_.push_back(message);
    return static_cast<OpId>(messages_.size() - 1);
  }
  const size_t slot = free_messages_.back();
  free_messages_.pop_back();
  messages_[slot] = message;
  return static_cast<OpId>(slot);
}

void HostWork::travel(const Network::Route& route, Bytes size, Message message) {
  message.latency = route.latency;
  const OpId slot = keep(message);
  clock_.sharing.start(clock_.now,
                       static_cast<double>(size.count()),
                       Sharing::kNoBound,
                       route.uses,
                       payload_of(slot, Event::kSent));
}

std::optional<Network::Route> HostWork::message_route(OpId id) const {
  const Op& op = program_.op(id);
  if (op.kind != OpKind::kSend && !is_ring(op.kind)) return std::nullopt;
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

HostWork::PhaseFlows HostWork::phase_flows(OpId id, int phase) const {
  const Op& op = program_.op(id);
  const ExchangeFlows& flows = load_of(id).flows;
  const bool outward = is_dispatch_shaped(op.kind, op.pass);
  const bool across = (phase == 0) == outward;
  return {across ? flows.across : flows.within, !outward};
}

HostWork::ExchangePart& HostWork::part_of(OpId id) {
  const auto [at, fresh] = exchanges_.try_emplace(id);
  if (fresh) {
    const auto me = member_of(id);
    for (int phase = 0; phase < 2; ++phase) {
      const PhaseFlows p = phase_flows(id, phase);
      for (const ExchangeFlow& f : p.flows) {
        if ((p.backwards ? f.from : f.to) == me) ++at->second.missing[phase];
      }
    }
  }
  return at->second;
}

void HostWork::send_phase(OpId id, int phase) {
  const Op& op = program_.op(id);
  const int32_t data_rank = program_.data_rank(id);
  const auto me = member_of(id);
  const auto first = static_cast<int32_t>(data_rank - me);
  const Bytes token = exchange_message(plan_, op.kind, op.pass);
  const PhaseFlows p = phase_flows(id, phase);
  for (const ExchangeFlow& f : p.flows) {
    const int64_t from = p.backwards ? f.to : f.from;
    const int64_t to = p.backwards ? f.from : f.to;
    if (from != me) continue;
    const Place there{op.pp_rank, static_cast<int32_t>(first + to)};
    const Message message{.op = program_.global_id(op.id, there.data_rank), .phase = phase};
    const auto route =
        network_.route(program_.global_rank({op.pp_rank, data_rank}), program_.global_rank(there));
    if (route) {
      travel(*route, token * f.tokens, message);
    } else {  // shared memory: at once
      wait(Duration(), payload_of(keep(message), Event::kArrived));
    }
  }
}

void HostWork::ring_step_arrived(OpId id) {
  const std::vector<OpId> members = program_.collective(id);
  const auto at = rings_.try_emplace(members.front(), 0).first;
  if (++at->second < members.size()) return;
  rings_.erase(at);
  for (const OpId m : members) compute(m, cost_of(m).work, Event::kOpDone);
}

void HostWork::arrived(OpId id, int phase) {
  --part_of(id).missing[phase];
  proceed(id);
}

void HostWork::proceed(OpId id) {
  ExchangePart& part = part_of(id);
  if (!part.packed || !part.waiting || part.missing[part.phase] > 0) return;
  if (part.phase == 1 && !part.begun) return;
  part.waiting = false;
  ++part.phase;
  if (on_cores()) {
    // A message's delay includes waking its receiver.
    const bool asleep = clock_.now > part.since && !plan_.cluster.linked();
    const Duration delay = asleep ? wake(id) : Duration();
    wait(delay, payload_of(id, Event::kWoken));
  } else if (part.phase == 1) {
    second_phase(id);
  } else {
    exchanges_.erase(id);
    clock_.happened.push_back({id, true});
  }
}

void HostWork::first_phase(OpId id) {
  send_phase(id, 0);
  part_of(id).packed = true;
  proceed(id);
}

void HostWork::second_phase(OpId id) {
  send_phase(id, 1);
  part_of(id).waiting = true;
  part_of(id).since = clock_.now;
  proceed(id);
}

}  // namespace rehearse
