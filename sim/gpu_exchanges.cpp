// GpuWork: all-to-alls, alone on their links or sharing them.

#include <algorithm>

#include "plan/routing/counts.h"
#include "sim/gpu_work.h"

namespace rehearse {

OpId GpuWork::member_op(const Exchange& x, int32_t member) const {
  return x.op + member * world_.layout().etp * static_cast<OpId>(world_.program.ops().size());
}

bool GpuWork::links_idle(OpId first, int32_t members) {
  const auto idle = [&](const Network::Ports& p) {
    return clock_.sharing.idle(p.out) && clock_.sharing.idle(p.in);
  };
  bool all = true;
  for (int32_t m = 0; m < members; ++m) {
    const int64_t rank = world_.program.global_rank(
        {world_.program.op(first).pp_rank,
         static_cast<int32_t>(world_.program.data_rank(first) + m * world_.layout().etp)});
    use_links(rank);  // lone collectives share their links from here on
    if (world_.plan.cluster.node_link) all &= idle(network_.node_ports(rank));
    if (world_.plan.cluster.network) all &= idle(network_.network_ports(rank));
  }
  return all;
}

// All members have come: the counts are exchanged, the data leaves.
void GpuWork::begin_exchange(OpId id) {
  const Op& op = world_.program.op(id);
  const Plan& plan = world_.plan;
  const int32_t group = group_of(id);
  const int32_t links =
      world_.links_of[static_cast<size_t>(op.pp_rank)][static_cast<size_t>(group)];
  const GroupLoad& load = load_.of(*op.layer, *op.micro_batch, group);
  const bool out = is_dispatch_shaped(op.kind, op.pass);
  const Bytes token = exchange_message(plan, op.kind, op.pass);
  const ExchangePorts& ports = world_.links[static_cast<size_t>(links)].ports;

  int32_t slot;
  if (free_exchanges_.empty()) {
    slot = static_cast<int32_t>(exchanges_.size());
    exchanges_.emplace_back();
  } else {
    slot = free_exchanges_.back();
    free_exchanges_.pop_back();
  }
  Exchange& x = exchanges_[static_cast<size_t>(slot)];
  x.active = true;
  x.live = false;
  x.op = id;
  x.begin = clock_.now;
  x.missing = group_members_;
  x.ports = &ports;
  x.run.reset();
  x.ended.assign(static_cast<size_t>(group_members_), 0);

  const OpCost& cost = world_.costs.of(op, 0);
  const ShapeKey key{load.id,
                     out,
                     token.count(),
                     links,
                     static_cast<int64_t>(cost.copy_slowdown * 1e9),
                     cost.preparation.picoseconds()};
  Answer fresh;
  Answer* answer = &fresh;
  const bool keep = world_.memoise && load_.uniform();
  if (keep) answer = &answers_[key];
  if (!answer->shape) {
    ExchangeTerms terms = world_.exchange_terms(out, token, links);
    terms.members = group_members_;
    terms.copy_slowdown = cost.copy_slowdown;
    terms.preparation = cost.preparation;
    answer->shape = std::make_shared<ExchangeShape>(exchange_shape(world_.group, load, terms));
  }
  x.shape = answer->shape;
  const bool idle = links_idle(id, group_members_);
  if (world_.shared_links || !idle) {
    ++disturbed_;
    start_live(slot, nullptr);
    return;
  }
  ++lone_;
  if (answer->ends) {
    ++remembered_;
  } else {
    answer->ends =
        std::make_shared<const std::vector<Duration>>(LoneExchange(*x.shape, ports).ends());
  }
  x.ends = answer->ends;
  std::vector<Duration> times = *x.ends;
  std::sort(times.begin(), times.end());
  times.erase(std::unique(times.begin(), times.end()), times.end());
  for (const Duration t : times) {
    wait(t, payload_of(Event::kExchangeEnds, static_cast<size_t>(slot), x.generation));
  }
  for (int32_t m = 0; m < group_members_; ++m) {
    device_of(rank_of(member_op(x, m))).exchange = slot;
  }
}

// A lone exchange is joined by other traffic on its links: from here on its flows share them.
void GpuWork::go_live(int32_t slot) {
  Exchange& x = exchanges_[static_cast<size_t>(slot)];
  for (int32_t m = 0; m < group_members_; ++m) {
    Device& d = device_of(rank_of(member_op(x, m)));
    if (d.exchange == slot) d.exchange.reset();
  }
  ++disturbed_;
  LoneExchange so_far(*x.shape, *x.ports);
  so_far.run_until(clock_.now - x.begin);
  start_live(slot, &so_far);
}

void GpuWork::start_live(int32_t slot, const LoneExchange* so_far) {
  Exchange& x = exchanges_[static_cast<size_t>(slot)];
  x.live = true;
  ++x.generation;
  const Duration passed = clock_.now - x.begin;
  ends_.clear();
  if (so_far) {
    x.run = so_far->run();
    ends_ = so_far->known_ends();
  } else {
    x.run.emplace(*x.shape);
    x.run->begin(ends_);
  }
  schedule_ends(slot, ends_);
  std::vector<Use> uses;
  for (size_t i = 0; i < x.shape->flows.size(); ++i) {
    const ExchangeShape::Flow& f = x.shape->flows[i];
    std::optional<double> left = static_cast<double>(f.bytes.count());
    if (so_far) left = so_far->remaining(i, passed);
    if (!left) continue;
    const int64_t from = rank_of(member_op(x, f.from));
    const int64_t to = rank_of(member_op(x, f.to));
    uses.clear();
    if (world_.shared_links) {
      uses = network_.route(from, to)->uses;
    } else if (f.across) {
      uses = {{network_.network_ports(from).out, f.copies},
              {network_.network_ports(to).in, f.copies}};
    } else {
      uses = {{network_.node_ports(from).out, f.copies}, {network_.node_ports(to).in, f.copies}};
    }
    clock_.sharing.start(clock_.now,
                         *left,
                         Sharing::kNoBound,
                         uses,
                         payload_of(Event::kExchangeFlow, static_cast<size_t>(slot), i));
  }
}

// Of a live exchange.
void GpuWork::schedule_ends(int32_t slot, const ExchangeRun::Ends& ends) {
  const Exchange& x = exchanges_[static_cast<size_t>(slot)];
  for (const auto& [member, end] : ends) {
    if (x.ended[static_cast<size_t>(member)]) continue;
    const Duration at = std::max(x.begin + end, clock_.now);
    wait(at - clock_.now,
         payload_of(Event::kExchangeFlow,
                    static_cast<size_t>(slot),
                    x.shape->flows.size() + static_cast<size_t>(member)));
  }
}

void GpuWork::end_member(int32_t slot, int32_t member) {
  Exchange& x = exchanges_[static_cast<size_t>(slot)];
  if (x.ended[static_cast<size_t>(member)]) return;
  x.ended[static_cast<size_t>(member)] = 1;
  const OpId id = member_op(x, member);
  const int64_t rank = rank_of(id);
  Device& d = device_of(rank);
  if (d.exchange == slot) d.exchange.reset();
  communicate(rank, -1);
  if (world_.load.wants(rank)) record_load(x, member);
  clock_.happened.push_back({id, true});
  if (--x.missing > 0) return;
  x.active = false;
  ++x.generation;
  x.shape.reset();
  x.ends.reset();
  free_exchanges_.push_back(slot);
}

void GpuWork::record_load(const Exchange& x, int32_t member) {
  double bytes[kLinkKinds] = {};
  for (const ExchangeShape::Flow& f : x.shape->flows) {
    const double size = static_cast<double>(f.bytes.count()) * f.copies;
    if (f.from == member) {
      bytes[static_cast<size_t>(f.across ? LinkKind::kNetworkOut : LinkKind::kNodeOut)] += size;
    }
    if (f.to == member) {
      bytes[static_cast<size_t>(f.across ? LinkKind::kNetworkIn : LinkKind::kNodeIn)] += size;
    }
  }
  const int64_t rank = rank_of(member_op(x, member));
  for (size_t k = 0; k < kLinkKinds; ++k) {
    if (bytes[k] > 0) {
      world_.load.add(rank, static_cast<LinkKind>(k), x.begin, clock_.now, bytes[k]);
    }
  }
}

}  // namespace rehearse
