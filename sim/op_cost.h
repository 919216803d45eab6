#pragma once
// What an op costs: time alone on its device, pressure on memory, bytes over links.

#include <map>
#include <optional>
#include <tuple>

#include "plan/memory.h"
#include "plan/plan.h"
#include "plan/routing.h"
#include "sim/calibration.h"
#include "sim/simulate.h"

namespace rehearse {

struct OpCost {
  Duration alone;            // of computation and local memory traffic
  double memory_weight = 0;  // share of the node's memory system it takes at full speed, 0 to 1
  Bytes message;             // to each receiver, over links when these are modelled
};

class OpCosts {
 public:
  OpCosts(const Plan& plan,
          const Program& program,
          const std::optional<Calibration>& calibration,
          CostPoint point);

  const OpCost& of(const Op& op);
  Duration lane_handover() const;
  const CostSources& sources() const { return sources_; }

 private:
  // Ops of equal keys cost the same: kind, pass, layer has experts, stage (step ops), group.
  using Key = std::tuple<OpKind, Pass, bool, int32_t, Group>;

  OpCost price(const Op& op);
  OpCost price(const std::vector<KernelCall>& calls);

  const Plan& plan_;
  const Program& program_;
  const std::optional<Calibration>& calibration_;
  CostPoint point_;
  std::vector<int64_t> expert_rows_;  // of one rank's experts
  std::map<Key, OpCost> known_;
  CostSources sources_;
};

// Rows of each expert of one rank, were routing balanced.
std::vector<int64_t> balanced_rows_here(const Plan& plan);

// The kernel calls of every distinct op of a plan: what `calibrate` measures.
std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program);

}  // namespace rehearse
