#include "sim/price/copied.h"

#include <algorithm>
#include <tuple>

#include "plan/program/op.h"
#include "plan/routing/expected.h"

namespace rehearse {

double memory_left(double copied, BytesPerSecond memory) {
  constexpr double kMost = 0.5;  // a copy reads and writes
  return 1 - std::min(kMost, 2 * copied / memory.value());
}

double memory_left(const Plan& plan, double rate) {
  if (plan.layout.ep == 1 || plan.model.architecture.experts == 0 || rate <= 0) return 1;
  const Cluster& cluster = plan.cluster;
  const ExpertGroup group(plan, 0, 0);
  const GroupLoad load = expected_load(plan, group);
  const ExchangeTokens& x = *load.members.front().exchange;
  const auto of_first = [](const std::vector<ExchangeFlow>& flows) {
    double tokens = 0;
    for (const ExchangeFlow& f : flows) tokens += f.from == 0 ? static_cast<double>(f.tokens) : 0;
    return tokens;
  };
  const double across = of_first(load.flows.across);
  const double within = of_first(load.flows.within);
  // As sim/network/exchange.cpp has it.
  const auto copied = static_cast<double>((group.nodes > 1 ? x.sent : 0) + x.forwarded + x.arrived);
  double bytes = 0;
  double seconds = 0;
  for (const auto& [kind, pass] : {std::pair(OpKind::kDispatch, Pass::kForward),
                                   std::pair(OpKind::kCombine, Pass::kForward),
                                   std::pair(OpKind::kCombine, Pass::kInput),
                                   std::pair(OpKind::kDispatch, Pass::kInput)}) {
    const auto token = static_cast<double>(exchange_message(plan, kind, pass).count());
    double slowest = token * copied / rate;
    if (cluster.network && across > 0) {
      slowest = std::max(slowest, token * across / cluster.network->bandwidth.value());
    }
    if (cluster.node_link && within > 0) {
      slowest = std::max(slowest, token * within / cluster.node_link->bandwidth.value());
    }
    bytes += token * copied;
    seconds += slowest;
  }
  return memory_left(bytes / seconds, cluster.memory_bandwidth);
}

}  // namespace rehearse
