#pragma once
// What an op costs: time alone on its device, pressure on memory, bytes over links.

#include <map>
#include <optional>
#include <tuple>

#include "plan/memory.h"
#include "plan/op_work.h"
#include "plan/plan.h"
#include "sim/calibration.h"
#include "sim/simulate.h"

namespace rehearse {

// Work on a rank's own device.
struct LocalCost {
  Duration alone;
  double memory_weight = 0;  // share of the node's memory system it takes at full speed, 0 to 1
};

struct OpCost {
  LocalCost pack, forward, work;  // as in OpCalls
  Bytes message;                  // to each receiver, over links when these are modelled
};

class OpCosts {
 public:
  OpCosts(const Plan& plan,
          const Program& program,
          const std::optional<Calibration>& calibration,
          const CostVariation& variation);

  // member: of the op's EP group, whose ranks may have different loads.
  const OpCost& of(const Op& op, int64_t member);
  Overheads overheads() const;  // none without a calibration
  const CostSources& sources() const { return sources_; }

 private:
  // Ops of equal keys cost the same: kind, pass, layer has experts, stage (step ops), group,
  // member.
  using Key = std::tuple<OpKind, Pass, bool, int32_t, Group, int64_t>;

  OpCost price(const Op& op, int64_t member);
  LocalCost price(const std::vector<KernelCall>& calls);
  double variation_of(const KernelCall& call, bool measured) const;

  const Plan& plan_;
  const Program& program_;
  const std::optional<Calibration>& calibration_;
  CostVariation variation_;
  std::vector<MemberLoad> loads_;  // by member
  std::map<Key, OpCost> known_;
  CostSources sources_;
};

// The kernel calls of every distinct op of a plan: what `calibrate` measures.
std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program);

// The loads of an EP group's members under balanced routing; one empty load without experts.
std::vector<MemberLoad> balanced_loads(const Plan& plan);

}  // namespace rehearse
