#pragma once
// How fast a plan's all-to-alls are when nothing else runs, in the terms of published benchmarks.

#include <vector>

#include "plan/program/program.h"
#include "sim/price/calibration.h"

namespace rehearse {

struct ExchangeSpeed {
  OpKind kind = OpKind::kDispatch;
  Pass pass = Pass::kForward;
  Duration mean;  // over ranks
  Duration last;  // the slowest rank's
  // Per rank, means: messages to each node that has an expert of a token (its own node counted), of
  // these over the network, and to each rank that has one (its own counted).
  Bytes to_nodes, network, to_ranks;
  // DeepEP's figures, bytes per second of the mean: of an EP group on several nodes to_nodes, on
  // one node to_ranks.
  double published() const {
    const Bytes bytes = several_nodes ? to_nodes : to_ranks;
    return static_cast<double>(bytes.count()) / mean.seconds();
  }
  bool several_nodes = false;
};

// dispatch.F, combine.F, combine.B, dispatch.B of one MoE layer and EP group; with a calibration of
// GPUs as in the first cell of `program` that has them, beside what computes there. REQUIRES: a
// cluster of GPUs and ep > 1.
std::vector<ExchangeSpeed> exchange_speeds(const Plan& plan,
                                           const Program& program,
                                           const std::optional<Calibration>& calibration = {});

}  // namespace rehearse
