#include "sim/network/exchange.h"

#include <algorithm>

namespace rehearse {

ExchangeShape exchange_shape(const ExpertGroup& group,
                             const GroupLoad& load,
                             const ExchangeTerms& terms) {
  ExchangeShape shape;
  shape.preparation = terms.preparation;
  const bool folded = terms.members < group.size;
  const auto members = static_cast<size_t>(terms.members);
  shape.passed_on_to.resize(members);
  const auto add = [&](const std::vector<ExchangeFlow>& flows, bool across, bool second) {
    double of_one = 0;  // flows out of each member, where all have as many
    if (folded && !flows.empty()) {
      of_one = static_cast<double>(flows.size()) / static_cast<double>(group.size);
    }
    for (const ExchangeFlow& f : flows) {
      const auto from = static_cast<int32_t>(terms.dispatch ? f.from : f.to);
      const auto to = static_cast<int32_t>(terms.dispatch ? f.to : f.from);
      const auto pair = static_cast<size_t>(group.node_of(from) * group.nodes + group.node_of(to));
      const Duration latency = across ? terms.latencies[pair] : terms.within;
      shape.flows.push_back({.from = folded ? 0 : from,
                             .to = folded ? 0 : to,
                             .across = across,
                             .second = second,
                             .bytes = terms.token * f.tokens,
                             .latency = latency,
                             .copies = folded ? of_one : 1});
      if (second) {
        shape.passed_on_to[folded ? 0 : static_cast<size_t>(from)].push_back(
            static_cast<int32_t>(shape.flows.size()) - 1);
      }
      if (folded) break;
    }
  };
  const bool network_first = terms.dispatch == (group.dispatcher != Dispatcher::kAllToAll);
  add(network_first ? load.flows.across : load.flows.within, network_first, false);
  add(network_first ? load.flows.within : load.flows.across, !network_first, true);
  for (size_t m = 0; m < members; ++m) {
    const ExchangeTokens& x = *load.members[m].exchange;
    // What a rank's SMs copy: tokens into the buffer they leave from, tokens passed on, tokens that
    // have come; within one node the first two are the same copy.
    const int64_t tokens = (group.nodes > 1 ? x.sent : 0) + x.forwarded + x.arrived;
    Duration copying = terms.copy ? terms.token * tokens / *terms.copy : Duration();
    if (terms.copy_slowdown != 1) {
      copying = Duration::seconds(copying.seconds() * terms.copy_slowdown);
    }
    shape.copying.push_back(copying);
  }
  return shape;
}

ExchangeRun::ExchangeRun(const ExchangeShape& shape)
    : shape_(&shape), members_(shape.copying.size()) {
  for (const ExchangeShape::Flow& f : shape.flows) {
    ++members_[static_cast<size_t>(f.from)].missing;
    ++members_[static_cast<size_t>(f.to)].missing;
    if (!f.second) ++members_[static_cast<size_t>(f.to)].missing_first;
  }
  for (size_t m = 0; m < members_.size(); ++m) {
    if (members_[m].missing_first == 0) continue;
    for (const int32_t f : shape.passed_on_to[m]) {
      ++members_[static_cast<size_t>(shape.flows[static_cast<size_t>(f)].to)].missing;
    }
  }
}

void ExchangeRun::begin(Ends& ends) {
  for (size_t m = 0; m < members_.size(); ++m) {
    if (members_[m].missing == 0) {
      ends.emplace_back(m, shape_->copying[m] + shape_->preparation);
    }
  }
}

// One thing less that `member` waits for; it came at `now`.
void ExchangeRun::settle(int32_t member, Duration now, Ends& ends) {
  Member& m = members_[static_cast<size_t>(member)];
  m.last = std::max(m.last, now);
  if (--m.missing > 0) return;
  // Flows are counted from their begin: all members' casts take as long, before any data leaves.
  ends.emplace_back(
      member, std::max(m.last, shape_->copying[static_cast<size_t>(member)]) + shape_->preparation);
}

void ExchangeRun::flow_ended(size_t flow, Duration now, Ends& ends) {
  const ExchangeShape::Flow& f = shape_->flows[flow];
  const Duration arrived = now + f.latency;
  settle(f.from, now, ends);
  if (!f.second) {
    Member& to = members_[static_cast<size_t>(f.to)];
    to.fed = std::max(to.fed, arrived);
    if (--to.missing_first == 0) {
      // The last that came is passed on at once.
      for (const int32_t next : shape_->passed_on_to[static_cast<size_t>(f.to)]) {
        const ExchangeShape::Flow& g = shape_->flows[static_cast<size_t>(next)];
        settle(g.to, to.fed + g.latency, ends);
      }
    }
  }
  settle(f.to, arrived, ends);
}

LoneExchange::LoneExchange(const ExchangeShape& shape,
                           const ExchangePorts& ports,
                           LinkMeter::Carried carried)
    : shape_(shape), run_(shape), ended_(shape.flows.size(), 0) {
  struct Ids {
    std::optional<ResourceId> node_out, node_in, network_out, network_in;
  };
  std::vector<Ids> ids;
  const auto add = [&](double capacity) {
    return capacity > 0 ? std::optional(sharing_.add_resource(capacity)) : std::nullopt;
  };
  for (const ExchangePorts::Member& m : ports.members) {
    const auto node_out = add(m.node_out);
    const auto node_in = add(m.node_in);
    const auto network_out = add(m.network_out);
    ids.push_back({node_out, node_in, network_out, add(m.network_in)});
  }
  if (carried) {
    meter_.emplace(std::move(carried));
    size_t port = 0;
    for (const Ids& i : ids) {
      for (const auto& id : {i.node_out, i.node_in, i.network_out, i.network_in}) {
        if (id) meter_->choose(*id, port);
        ++port;
      }
    }
    sharing_.before_changes([this](Duration now) { meter_->settle(now, sharing_); });
  }
  start([&](const ExchangeShape::Flow& f) -> std::vector<Use> {
    const Ids& from = ids[static_cast<size_t>(f.from)];
    const Ids& to = ids[static_cast<size_t>(f.to)];
    return {{(f.across ? from.network_out : from.node_out).value(), f.copies},
            {(f.across ? to.network_in : to.node_in).value(), f.copies}};
  });
}

LoneExchange::LoneExchange(const ExchangeShape& shape, Sharing sharing, const UsesOf& uses_of)
    : shape_(shape), sharing_(std::move(sharing)), run_(shape), ended_(shape.flows.size(), 0) {
  start(uses_of);
}

void LoneExchange::start(const UsesOf& uses_of) {
  activities_.reserve(shape_.flows.size());
  for (size_t i = 0; i < shape_.flows.size(); ++i) {
    const ExchangeShape::Flow& f = shape_.flows[i];
    const std::vector<Use> uses = uses_of(f);
    const auto bytes = static_cast<double>(f.bytes.count());
    activities_.push_back(sharing_.start(Duration(), bytes, Sharing::kNoBound, uses, i));
    if (meter_) meter_->started(activities_.back(), uses, bytes, sharing_);
  }
  run_.begin(ends_);
  sharing_.update(Duration(), queue_);
}

void LoneExchange::run_to(int64_t end) {
  std::vector<uint64_t> ended;
  while (!queue_.empty() && queue_.next().time < end) {
    const EventQueue::Event event = queue_.pop();
    ended.clear();
    sharing_.finish(event, ended);
    const Duration now = Duration::picoseconds(event.time);
    for (const uint64_t flow : ended) {
      ended_[flow] = 1;
      run_.flow_ended(flow, now, ends_);
    }
    if (queue_.empty() || queue_.next().time > event.time) sharing_.update(now, queue_);
  }
}

std::vector<Duration> LoneExchange::ends() {
  run_to(std::numeric_limits<int64_t>::max());
  std::vector<Duration> by_member(shape_.copying.size());
  CHECK(ends_.size() == by_member.size()) << ends_.size() << " of " << by_member.size();
  for (const auto& [member, end] : ends_) by_member[static_cast<size_t>(member)] = end;
  return by_member;
}

void LoneExchange::run_until(Duration now) {
  run_to(now.picoseconds());
  if (meter_) meter_->settle(now, sharing_);
}

std::optional<double> LoneExchange::remaining(size_t f, Duration now) const {
  if (ended_[f]) return std::nullopt;
  return sharing_.remaining(activities_[f], now);
}

}  // namespace rehearse
