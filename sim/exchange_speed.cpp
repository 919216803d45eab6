#include "sim/exchange_speed.h"

#include <algorithm>

#include "sim/gpu_world.h"

namespace rehearse {

namespace {

// The first group's, over all links of its routes.
std::vector<Duration> over_routes(const GpuWorld& world, const ExchangeShape& shape) {
  Sharing sharing;
  const Network network(
      world.plan.cluster, RankBlock::all(world.layout()), &*world.fabric, sharing);
  return LoneExchange(
             shape,
             std::move(sharing),
             [&](const ExchangeShape::Flow& f) { return network.route(f.from, f.to)->uses; })
      .ends();
}

}  // namespace

std::vector<ExchangeSpeed> exchange_speeds(const Plan& plan,
                                           const Program& program,
                                           const std::optional<Calibration>& calibration) {
  ExpertLoad loads(plan);
  const auto layer = static_cast<int32_t>(plan.model.architecture.first_moe_layer());
  const GroupLoad& load = loads.of(layer, 0, 0);
  const OpCosts costs(plan, program, calibration, {}, load);
  const GpuWorld world(plan, program, costs);
  const GpuWorld::GroupLinks& links = world.links.at(0);
  std::vector<ExchangeSpeed> speeds;
  for (const auto& [kind, pass] : {std::pair(OpKind::kDispatch, Pass::kForward),
                                   std::pair(OpKind::kCombine, Pass::kForward),
                                   std::pair(OpKind::kCombine, Pass::kInput),
                                   std::pair(OpKind::kDispatch, Pass::kInput)}) {
    const bool dispatch = is_dispatch_shaped(kind, pass);
    ExchangeTerms terms = world.exchange_terms(dispatch, exchange_message(plan, kind, pass), 0);
    const auto op = std::find_if(program.ops().begin(), program.ops().end(), [&](const Op& o) {
      return o.kind == kind && o.pass == pass;
    });
    if (calibration && op != program.ops().end()) {
      terms.copy_slowdown = costs.of(*op, 0).copy_slowdown;
      terms.preparation = costs.of(*op, 0).preparation;
    }
    const ExchangeShape shape = exchange_shape(world.group, load, terms);
    const std::vector<Duration> ends =
        world.shared_links ? over_routes(world, shape) : LoneExchange(shape, links.ports).ends();
    ExchangeSpeed s{.kind = kind, .pass = pass, .several_nodes = world.group.nodes > 1};
    const auto members = static_cast<int64_t>(ends.size());
    Duration sum;
    for (const Duration end : ends) {
      sum += end;
      s.last = std::max(s.last, end);
    }
    s.mean = Duration::picoseconds(sum.picoseconds() / members);
    int64_t to_nodes = 0;
    int64_t to_ranks = 0;
    int64_t network = 0;
    for (const MemberLoad& m : load.members) {
      to_nodes += m.exchange->sent;
      to_ranks += m.exchange->arrived;
    }
    for (const ExchangeFlow& f : load.flows.across) network += f.tokens;
    s.to_nodes = Bytes(terms.token.count() * to_nodes / members);
    s.to_ranks = Bytes(terms.token.count() * to_ranks / members);
    s.network = Bytes(terms.token.count() * network / members);
    speeds.push_back(s);
  }
  return speeds;
}

}  // namespace rehearse
