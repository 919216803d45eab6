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
  if (!answer->pieces) answer->pieces = std::make_shared<std::vector<Piece>>();
  x.pieces = answer->pieces;
  if (!answer->shape) {
    ExchangeTerms terms = world_.exchange_terms(out, token, links);
    terms.members = group_members_;
    terms.copy_slowdown = cost.copy_slowdown;
    terms.preparation = cost.preparation;
    answer->shape = std::make_shared<ExchangeShape>(exchange_shape(world_.group, load, terms));
  }
  x.shape = answer->shape;
  x.bundles.reset();
  x.bundled.clear();
  if (keep && !out_of_step_[static_cast<size_t>(op.pp_rank)]) {
    auto& known = bundles_[{key, op.pp_rank, group}];
    if (!known) known = bundles_of(x);
    x.bundles = known;
  }
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
  std::vector<Piece> pieces;
  const bool wanted = meter_ && wants_load(x);
  LoneExchange so_far(*x.shape, *x.ports, wanted ? pieces_into(pieces) : LinkMeter::Carried());
  so_far.run_until(clock_.now - x.begin);
  if (wanted) record_pieces(x, pieces);
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
  if (x.bundles && !so_far) {
    start_bundles(slot);
    return;
  }
  for (size_t i = 0; i < x.shape->flows.size(); ++i) {
    const ExchangeShape::Flow& f = x.shape->flows[i];
    std::optional<double> left = static_cast<double>(f.bytes.count());
    if (so_far) left = so_far->remaining(i, passed);
    if (!left) continue;
    start(*left, uses_of(x, f), payload_of(Event::kExchangeFlow, static_cast<size_t>(slot), i));
  }
}

std::vector<Use> GpuWork::uses_of(const Exchange& x, const ExchangeShape::Flow& f) const {
  const int64_t from = rank_of(member_op(x, f.from));
  const int64_t to = rank_of(member_op(x, f.to));
  if (world_.shared_links) return network_.route(from, to)->uses;
  const Network::Ports& out = f.across ? network_.network_ports(from) : network_.node_ports(from);
  const Network::Ports& in = f.across ? network_.network_ports(to) : network_.node_ports(to);
  return {{out.out, f.copies}, {in.in, f.copies}};
}

// --- all-to-alls of ranks in step, over links between switches

std::shared_ptr<const std::vector<GpuWork::Bundle>> GpuWork::bundles_of(const Exchange& x) const {
  const auto class_of = [&](int32_t member) {
    return world_.in_step[static_cast<size_t>(world_.program.data_rank(member_op(x, member)))];
  };
  std::map<std::tuple<int32_t, int32_t, bool, bool, int64_t, int64_t>, size_t> known;
  std::vector<std::map<ResourceId, double>> weights;
  auto bundles = std::make_shared<std::vector<Bundle>>();
  for (size_t i = 0; i < x.shape->flows.size(); ++i) {
    const ExchangeShape::Flow& f = x.shape->flows[i];
    const auto [at, fresh] = known.try_emplace({class_of(f.from),
                                                class_of(f.to),
                                                f.across,
                                                f.second,
                                                f.bytes.count(),
                                                f.latency.picoseconds()},
                                               bundles->size());
    if (fresh) {
      bundles->push_back({.flows = {}, .bytes = f.bytes, .uses = {}});
      weights.emplace_back();
    }
    (*bundles)[at->second].flows.push_back(i);
    for (const Use& u : uses_of(x, f)) weights[at->second][u.resource] += u.weight;
  }
  for (size_t b = 0; b < bundles->size(); ++b) {
    for (const auto& [resource, weight] : weights[b]) {
      (*bundles)[b].uses.push_back({resource, weight});
    }
  }
  return bundles;
}

void GpuWork::start_bundles(int32_t slot) {
  Exchange& x = exchanges_[static_cast<size_t>(slot)];
  const size_t first = x.shape->flows.size() + static_cast<size_t>(group_members_);
  for (size_t b = 0; b < x.bundles->size(); ++b) {
    const Bundle& bundle = (*x.bundles)[b];
    const ActivityId id =
        start(static_cast<double>(bundle.bytes.count()),
              bundle.uses,
              payload_of(Event::kExchangeFlow, static_cast<size_t>(slot), first + b));
    x.bundled.emplace_back(id, clock_.sharing.sequence(id));
  }
}

// From here on ranks of one class may do different things on this pipeline rank: flows that are one
// become many again.
void GpuWork::fall_out_of_step(int32_t pp_rank) {
  if (std::exchange(out_of_step_[static_cast<size_t>(pp_rank)], 1)) return;
  for (size_t slot = 0; slot < exchanges_.size(); ++slot) {
    Exchange& x = exchanges_[slot];
    if (!x.active || x.bundled.empty() || world_.program.op(x.op).pp_rank != pp_rank) continue;
    for (size_t b = 0; b < x.bundled.size(); ++b) {
      const auto [id, sequence] = x.bundled[b];
      if (!clock_.sharing.running(id, sequence)) continue;
      const double left = clock_.sharing.remaining(id, clock_.now);
      if (meter_) meter_->stopped(id, clock_.now, clock_.sharing);
      clock_.sharing.stop(id);
      for (const size_t f : (*x.bundles)[b].flows) {
        start(left, uses_of(x, x.shape->flows[f]), payload_of(Event::kExchangeFlow, slot, f));
      }
    }
    x.bundled.clear();
  }
}

// Of a live exchange: `what` counts flows, then members whose ends were put off, then bundles.
void GpuWork::flow_ended(int32_t slot, size_t what) {
  Exchange& x = exchanges_[static_cast<size_t>(slot)];
  const size_t flows = x.shape->flows.size();
  const auto members = static_cast<size_t>(group_members_);
  if (what >= flows && what < flows + members) {
    end_member(slot, static_cast<int32_t>(what - flows));
    return;
  }
  ends_.clear();
  const Duration passed = clock_.now - x.begin;
  if (what < flows) {
    x.run->flow_ended(what, passed, ends_);
  } else {
    for (const size_t f : (*x.bundles)[what - flows - members].flows) {
      x.run->flow_ended(f, passed, ends_);
    }
  }
  schedule_ends(slot, ends_);
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
  clock_.happened.push_back({id, true});
  if (--x.missing > 0) return;
  if (meter_ && !x.live) record_lone(x);
  x.active = false;
  ++x.generation;
  x.shape.reset();
  x.ends.reset();
  x.pieces.reset();
  x.bundles.reset();
  x.bundled.clear();
  free_exchanges_.push_back(slot);
}

bool GpuWork::wants_load(const Exchange& x) const {
  for (int32_t m = 0; m < group_members_; ++m) {
    if (world_.load.wants(rank_of(member_op(x, m)))) return true;
  }
  return false;
}

LinkMeter::Carried GpuWork::pieces_into(std::vector<Piece>& pieces) const {
  return [&pieces](size_t port, Duration begin, Duration end, double bytes) {
    pieces.push_back({.member = static_cast<int32_t>(port / kLinkKinds),
                      .kind = static_cast<LinkKind>(port % kLinkKinds),
                      .begin = begin,
                      .end = end,
                      .bytes = bytes});
  };
}

// Of an exchange that had its links to itself from begin to end.
void GpuWork::record_lone(const Exchange& x) {
  if (!wants_load(x)) return;
  if (x.pieces->empty()) LoneExchange(*x.shape, *x.ports, pieces_into(*x.pieces)).ends();
  record_pieces(x, *x.pieces);
}

void GpuWork::record_pieces(const Exchange& x, const std::vector<Piece>& pieces) {
  for (const Piece& p : pieces) {
    const int64_t rank = rank_of(member_op(x, p.member));
    if (!world_.load.wants(rank)) continue;
    world_.load.add(rank, p.kind, x.begin + p.begin, x.begin + p.end, p.bytes);
  }
}

}  // namespace rehearse
