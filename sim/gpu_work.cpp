#include "sim/gpu_work.h"

#include <algorithm>
#include <bit>

#include "plan/routing.h"

namespace rehearse {
namespace {

// dispatch.F and combine.B send tokens to experts, the others back.
bool sends_out(const Op& op) {
  return (op.kind == OpKind::kDispatch) == (op.pass == Pass::kForward);
}

}  // namespace

GpuWorld::GpuWorld(const Plan& p, const Program& prog, const OpCosts& c, int32_t ranks)
    : plan(p), program(prog), costs(c), data_ranks(ranks), group(p, 0, 0) {
  const Cluster& cluster = plan.cluster;
  if (cluster.fabric.kind != FabricKind::kIdeal && cluster.network) {
    fabric.emplace(cluster);
    const int64_t per_node = cluster.devices_per_node;
    bool aligned = plan.layout.dp % per_node == 0 &&
                   (plan.layout.ep % per_node == 0 || per_node % plan.layout.ep == 0);
    for (int64_t d = 0; d < plan.layout.world(); ++d) {
      aligned &= fabric->same_network(d, d % per_node);
    }
    shared_links = fabric->any_binding() || (fabric->several_networks() && !aligned);
  }
  const Layout& l = plan.layout;
  Sharing unused;
  const Network network(
      cluster, {.pp = l.pp, .dp = l.dp, .count = l.dp}, fabric ? &*fabric : nullptr, unused);
  links_of.resize(static_cast<size_t>(l.pp));
  for (int64_t r = 0; r < l.pp && l.ep > 1; ++r) {
    for (int64_t g = 0; g < l.dp / l.ep; ++g) {
      GroupLinks of_group;
      const int64_t first = r * l.dp + g * l.ep;
      for (int64_t a = 0; a < group.nodes; ++a) {
        for (int64_t b = 0; b < group.nodes; ++b) {
          const auto route =
              a == b ? std::nullopt
                     : network.route(first + group.member(a, 0), first + group.member(b, 0));
          of_group.latencies.push_back(route ? route->latency : Duration());
          ranks_alike &= a == b || of_group.latencies.back() == of_group.latencies[1];
        }
      }
      for (int64_t m = 0; m < l.ep; ++m) {
        ExchangePorts::Member ports;
        if (cluster.node_link) {
          ports.node_out = unused.capacity(network.node_ports(first + m).out);
          ports.node_in = unused.capacity(network.node_ports(first + m).in);
        }
        if (cluster.network) {
          ports.network_out = unused.capacity(network.network_ports(first + m).out);
          ports.network_in = unused.capacity(network.network_ports(first + m).in);
        }
        of_group.ports.members.push_back(ports);
      }
      const auto same = std::find(links.begin(), links.end(), of_group);
      links_of[static_cast<size_t>(r)].push_back(static_cast<int32_t>(same - links.begin()));
      if (same == links.end()) links.push_back(std::move(of_group));
    }
    for (const int32_t g : links_of[static_cast<size_t>(r)]) {
      groups_alike &= g == links_of[static_cast<size_t>(r)].front();
    }
  }
  // Pipeline messages: every data rank's takes as long, over the same kind of link.
  for (int64_t r = 0; r < l.pp; ++r) {
    for (const int64_t to : {(r + 1) % l.pp, l.pp - 1 - r}) {
      const auto model = network.route(r * l.dp, to * l.dp);
      const auto inside = [&](int64_t d) {
        return (r * l.dp + d) / cluster.devices_per_node ==
               (to * l.dp + d) / cluster.devices_per_node;
      };
      for (int64_t d = 1; d < l.dp && groups_alike; ++d) {
        const auto route = network.route(r * l.dp + d, to * l.dp + d);
        groups_alike &= inside(d) == inside(0) && route.has_value() == model.has_value() &&
                        (!route || (route->latency == model->latency &&
                                    route->uses.size() == model->uses.size()));
      }
    }
  }
  groups_alike &= cluster.uniform() && !shared_links;
  ranks_alike &= groups_alike;
}

ExchangeTerms GpuWorld::exchange_terms(bool dispatch, Bytes token, int32_t links_index) const {
  const Cluster& cluster = plan.cluster;
  std::optional<BytesPerSecond> copy;
  if (cluster.copy_per_sm) {
    copy = BytesPerSecond(cluster.copy_per_sm->value() *
                          static_cast<double>(cluster.communication_sms));
  }
  return {.dispatch = dispatch,
          .token = token,
          .latencies = links[static_cast<size_t>(links_index)].latencies,
          .within = cluster.node_link ? cluster.node_link->latency : Duration(),
          .copy = copy,
          .members = group.size};
}

CollectivePlan plan_collective(
    const Cluster& cluster, int64_t nodes, int64_t per_node, Bytes bytes, bool reduce_all) {
  const Duration network = cluster.network ? cluster.network->latency : Duration();
  const Duration node = cluster.node_link ? cluster.node_link->latency : Duration();
  const int64_t ranks = nodes * per_node;
  const int64_t passes = reduce_all ? 2 : 1;  // reduce, then broadcast
  const auto steps = [](int64_t n) {
    return static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(n - 1)));
  };
  using Algorithm = CollectivePlan::Algorithm;
  std::vector<CollectivePlan> candidates;
  // Parallel rings, one per position, enter and leave every node by another NIC each: a rank's NIC
  // carries its share of the node's traffic, its NVLink all but that.
  const Bytes out = nodes > 1 ? Bytes(bytes.count() / per_node) : Bytes();
  const Bytes inside = per_node > 1 ? Bytes(bytes.count() - bytes.count() / per_node) : Bytes();
  candidates.push_back({.algorithm = Algorithm::kRing,
                        .network = out,
                        .node = inside,
                        .latency = (network * nodes + node * (ranks - nodes)) * passes});
  candidates.push_back({.algorithm = Algorithm::kHierarchical,
                        .network = out,
                        .node = inside,
                        .latency = (network * (nodes - 1) + node * (per_node - 1)) * passes});
  if (reduce_all) {
    candidates.push_back({.algorithm = Algorithm::kTree,
                          .network = out,
                          .node = inside,
                          .latency = (network * steps(nodes) + node * (per_node - 1)) * passes});
  }
  const auto time = [&](const CollectivePlan& p) {
    Duration link;
    if (cluster.network) link = std::max(link, p.network / cluster.network->bandwidth);
    if (cluster.node_link) link = std::max(link, p.node / cluster.node_link->bandwidth);
    return link + p.latency;
  };
  return *std::min_element(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) {
    return time(a) < time(b);
  });
}

GpuWork::GpuWork(
    GpuWorld& world, const ExpertLoad& load, Clock& clock, int32_t first, int32_t count)
    : world_(world),
      load_(load),
      clock_(clock),
      first_(first),
      count_(count),
      group_members_(static_cast<int32_t>(std::min<int64_t>(world.group.size, count))),
      block_{
          .pp = world.plan.layout.pp, .dp = world.plan.layout.dp, .first = first, .count = count},
      network_(world.plan.cluster, block_, world.fabric ? &*world.fabric : nullptr, clock.sharing),
      devices_(static_cast<size_t>(block_.size())) {
  world.works.push_back(this);
}

// --- computation

LocalCost GpuWork::local_cost(OpId id) {
  const Op& op = world_.program.op(id);
  const bool moe = op.layer && world_.plan.model.architecture.is_moe(*op.layer);
  if (moe && op.kind == OpKind::kMlp && !load_.uniform()) {
    const int32_t data_rank = world_.program.data_rank(id);
    const GroupLoad& load = load_.of(*op.layer, *op.micro_batch, data_rank / world_.group.size);
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
  d.left = static_cast<double>(at_speed(cost.alone, rank).picoseconds());
  d.beside = cost.alone / cost.beside;
  d.since = clock_.now.picoseconds();
  schedule(d, index);
}

void GpuWork::schedule(Device& d, size_t index) {
  const double time = std::nearbyint(d.left / speed(d));
  ++d.generation;
  wait(Duration::picoseconds(static_cast<int64_t>(time)),
       payload(Event::kComputed, index, d.generation));
}

// A communication kernel comes to the rank's device (+1) or leaves it (-1).
void GpuWork::communicate(int64_t rank, int32_t change) {
  const size_t index = block_.index(rank);
  Device& d = devices_[index];
  const bool matters = d.busy && (d.communicating == 0) != (d.communicating + change == 0);
  if (matters) {
    const auto passed = static_cast<double>(clock_.now.picoseconds() - d.since);
    d.left = std::max(0.0, d.left - passed * speed(d));
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
    if (world_.program.data_rank(id) % group_members_ == 0) begin_exchange(id);
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
      wait(at_speed(cost.alone, rank_of(id)), payload(Event::kEnded, static_cast<uint64_t>(id)));
    }
  }
}

void GpuWork::event(uint64_t value) {
  const auto kind = static_cast<Event>(value & 7);
  value >>= 3;
  const auto high = static_cast<size_t>(value >> 32);
  const auto low = static_cast<uint32_t>(value);
  switch (kind) {
    case Event::kEnded: {
      const auto id = static_cast<OpId>(value);
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
      const auto id = static_cast<OpId>(value);
      const Op& op = world_.program.op(id);
      const int64_t to = world_.program.global_rank({*op.peer, world_.program.data_rank(id)});
      record_send(id, to);
      wait(network_.route(rank_of(id), to)->latency,
           payload(Event::kEnded, static_cast<uint64_t>(id)));
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
      part_ended(static_cast<OpId>(value));
      return;
    case Event::kTransferred: {
      Transfer& t = transfers_[high];
      if (!t.active || t.generation != low) return;
      t.active = false;
      part_ended(t.op);
      return;
    }
  }
}

// --- pipeline messages

// Somebody else is about to use the links of `rank`.
void GpuWork::use_links(int64_t rank) {
  const int32_t slot = device_of(rank).exchange;
  if (slot >= 0) go_live(slot);
  if (transfers_.empty()) return;
  for (const size_t t : {2 * block_.index(rank), 2 * block_.index(rank) + 1}) {
    if (transfers_[t].active) share_transfer(t);
  }
}

void GpuWork::start_flow(OpId id, int64_t from, int64_t to, Bytes bytes, Event then) {
  const auto route = network_.route(from, to);
  use_links(from);
  use_links(to);
  clock_.sharing.start(clock_.now,
                       static_cast<double>(bytes.count()),
                       Sharing::kNoBound,
                       route->uses,
                       payload(then, static_cast<uint64_t>(id)));
}

void GpuWork::record_send(OpId id, int64_t to) {
  const int64_t from = rank_of(id);
  if (!world_.load.wants(from) && !world_.load.wants(to)) return;
  const Duration begin = send_begins_.at(id);
  send_begins_.erase(id);
  const int64_t per_node = world_.plan.cluster.devices_per_node;
  const bool inside = from / per_node == to / per_node;
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

// --- all-to-alls

OpId GpuWork::member_op(const Exchange& x, int32_t member) const {
  return x.op + member * static_cast<OpId>(world_.program.ops().size());
}

bool GpuWork::links_idle(OpId first, int32_t members) const {
  const auto idle = [&](const Network::Ports& p) {
    return clock_.sharing.idle(p.out) && clock_.sharing.idle(p.in);
  };
  for (int32_t m = 0; m < members; ++m) {
    const int64_t rank = world_.program.global_rank(
        {world_.program.op(first).pp_rank, world_.program.data_rank(first) + m});
    if (world_.plan.cluster.node_link && !idle(network_.node_ports(rank))) return false;
    if (world_.plan.cluster.network && !idle(network_.network_ports(rank))) return false;
  }
  return true;
}

// All members have come: the counts are exchanged, the data leaves.
void GpuWork::begin_exchange(OpId id) {
  const Op& op = world_.program.op(id);
  const Plan& plan = world_.plan;
  const int64_t group = world_.program.data_rank(id) / world_.group.size;
  const int32_t links =
      world_.links_of[static_cast<size_t>(op.pp_rank)][static_cast<size_t>(group)];
  const GroupLoad& load = load_.of(*op.layer, *op.micro_batch, group);
  const bool out = sends_out(op);
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

  const ShapeKey key{load.id, out, token.count(), links};
  Answer fresh;
  Answer* answer = &fresh;
  const bool keep = world_.memoise && load_.uniform();
  if (keep) answer = &answers_[key];
  if (!answer->shape) {
    ExchangeTerms terms = world_.exchange_terms(out, token, links);
    terms.members = group_members_;
    answer->shape = std::make_shared<ExchangeShape>(exchange_shape(world_.group, load, terms));
  }
  x.shape = answer->shape;
  if (world_.shared_links || !links_idle(id, group_members_)) {
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
    wait(t, payload(Event::kExchangeEnds, static_cast<uint64_t>(slot), x.generation));
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
    if (d.exchange == slot) d.exchange = -1;
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
                         payload(Event::kExchangeFlow, static_cast<uint64_t>(slot), i));
  }
}

// Of a live exchange.
void GpuWork::schedule_ends(int32_t slot, const ExchangeRun::Ends& ends) {
  const Exchange& x = exchanges_[static_cast<size_t>(slot)];
  for (const auto& [member, end] : ends) {
    if (x.ended[static_cast<size_t>(member)]) continue;
    const Duration at = std::max(x.begin + end, clock_.now);
    wait(at - clock_.now,
         payload(Event::kExchangeFlow,
                 static_cast<uint64_t>(slot),
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
  if (d.exchange == slot) d.exchange = -1;
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

// --- collectives that end a step

int64_t GpuWork::collective_key(OpId id) const {
  const Op& op = world_.program.op(id);
  const int64_t member =
      op.group == Group::kExpertReplicas ? world_.program.data_rank(id) % world_.plan.layout.ep : 0;
  return (((static_cast<int64_t>(op.kind) * 8 + static_cast<int64_t>(op.group)) << 20 |
           (op.group == Group::kWorld ? 0 : op.stage))
          << 24) |
         member;
}

GpuWorld::Collective GpuWork::plan_of(OpId id) const {
  const Op& op = world_.program.op(id);
  const Cluster& cluster = world_.plan.cluster;
  GpuWorld::Collective c;
  for (const OpId m : world_.program.collective(id)) {
    c.ranks.push_back(rank_of(m));
    if (world_.program.data_rank(m) < world_.data_ranks) c.members.push_back(m);
  }
  c.missing = c.members.size() * 3;
  // Ranks per node, where all nodes have as many of the group; else one by one.
  std::map<int64_t, int64_t> on_node;
  for (const int64_t r : c.ranks) ++on_node[r / cluster.devices_per_node];
  const bool even = std::all_of(on_node.begin(), on_node.end(), [&](const auto& n) {
    return n.second == on_node.begin()->second;
  });
  c.per_node = even ? on_node.begin()->second : 1;
  const OpCost& cost = world_.costs.of(op, member_of(id));
  const bool reduce_all = cost.message == Bytes() ||
                          (op.kind == OpKind::kGradReduce && world_.plan.layout.zero_stage == 0);
  c.plan = plan_collective(cluster,
                           static_cast<int64_t>(c.ranks.size()) / c.per_node,
                           c.per_node,
                           cost.message,
                           reduce_all);
  if (!world_.shared_links) c.ranks = {};
  return c;
}

const Network::Ports& GpuWork::transfer_ports(size_t transfer) const {
  const int64_t rank = block_.rank(static_cast<int64_t>(transfer / 2));
  return transfer % 2 == 0 ? network_.node_ports(rank) : network_.network_ports(rank);
}

// Sends and receives `bytes` for the collective: a matter of arithmetic while nothing else uses the
// ports, a flow from the moment that something does.
void GpuWork::transfer(OpId id, size_t transfer, Bytes bytes) {
  if (bytes == Bytes()) {
    wait(Duration(), payload(Event::kPart, static_cast<uint64_t>(id)));
    return;
  }
  // No exchange has these links: a rank's collectives and all-to-alls are of one lane.
  if (transfers_.empty()) transfers_.resize(2 * devices_.size());
  Transfer& t = transfers_[transfer];
  t.op = id;
  t.bytes = static_cast<double>(bytes.count());
  t.begin = clock_.now.picoseconds();
  t.active = true;
  ++t.generation;
  const Network::Ports& ports = transfer_ports(transfer);
  if (world_.shared_links || !clock_.sharing.idle(ports.out) || !clock_.sharing.idle(ports.in)) {
    share_transfer(transfer);
    return;
  }
  const double rate =
      std::min(clock_.sharing.capacity(ports.out), clock_.sharing.capacity(ports.in));
  wait(Duration::picoseconds(static_cast<int64_t>(std::nearbyint(t.bytes / rate))),
       payload(Event::kTransferred, transfer, t.generation));
}

// The transfer's ports are about to be shared: what is left of it becomes a flow.
void GpuWork::share_transfer(size_t transfer) {
  Transfer& t = transfers_[transfer];
  t.active = false;
  ++t.generation;
  const Network::Ports& ports = transfer_ports(transfer);
  const double rate =
      std::min(clock_.sharing.capacity(ports.out), clock_.sharing.capacity(ports.in));
  const auto passed = static_cast<double>(clock_.now.picoseconds() - t.begin);
  const Use uses[] = {{ports.out, 1}, {ports.in, 1}};
  clock_.sharing.start(clock_.now,
                       std::max(0.0, t.bytes - passed * rate),
                       Sharing::kNoBound,
                       uses,
                       payload(Event::kPart, static_cast<uint64_t>(t.op)));
}

void GpuWork::begin_collective(OpId id) {
  GpuWorld::Collective& c = world_.collectives[collective_key(id)];
  if (c.members.empty()) c = plan_of(id);
  const Cluster& cluster = world_.plan.cluster;
  const int64_t rank = rank_of(id);
  // Three parts per member: over the network, over NVLink, and beside them what the rank itself
  // does. Each rank's end of a link is counted at that rank; where links between switches matter,
  // the network's flows go their whole way.
  wait(at_speed(world_.costs.of(world_.program.op(id), member_of(id)).work.alone, rank),
       payload(Event::kPart, static_cast<uint64_t>(id)));
  if (world_.shared_links && c.plan.network > Bytes()) {
    // To the same position on the group's next node.
    const auto at = std::lower_bound(c.ranks.begin(), c.ranks.end(), rank) - c.ranks.begin();
    const auto next = (at + c.per_node) % static_cast<int64_t>(c.ranks.size());
    start_flow(id, rank, c.ranks[static_cast<size_t>(next)], c.plan.network, Event::kPart);
  } else {
    transfer(id, 2 * block_.index(rank) + 1, cluster.network ? c.plan.network : Bytes());
  }
  if (world_.load.wants(rank)) {
    // What the links take at best: other traffic is rare by then.
    const auto add = [&](LinkKind out, LinkKind in, Bytes bytes, const std::optional<Link>& link) {
      if (bytes == Bytes() || !link) return;
      const Duration end = clock_.now + bytes / link->bandwidth;
      for (const LinkKind k : {out, in}) {
        world_.load.add(rank, k, clock_.now, end, static_cast<double>(bytes.count()));
      }
    };
    add(LinkKind::kNetworkOut, LinkKind::kNetworkIn, c.plan.network, cluster.network);
    add(LinkKind::kNodeOut, LinkKind::kNodeIn, c.plan.node, cluster.node_link);
  }
  transfer(id, 2 * block_.index(rank), cluster.node_link ? c.plan.node : Bytes());
}

void GpuWork::part_ended(OpId id) {
  const int64_t key = collective_key(id);
  GpuWorld::Collective& c = world_.collectives[key];
  if (--c.missing > 0) return;
  const Duration end = clock_.now + c.plan.latency;
  for (const OpId m : c.members) {
    GpuWork& there = *world_.works[static_cast<size_t>(world_.program.data_rank(m) / count_)];
    Sharing::wait(clock_.now,
                  end - clock_.now,
                  there.clock_.queue,
                  payload(Event::kEnded, static_cast<uint64_t>(m)));
  }
  world_.collectives.erase(key);
}

}  // namespace rehearse
