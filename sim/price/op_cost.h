#pragma once
// What an op costs: time alone on its device, pressure on memory, bytes over links.

#include <optional>
#include <vector>

#include "plan/program/memory.h"
#include "plan/program/op_work.h"
#include "plan/plan.h"
#include "sim/price/calibration.h"
#include "sim/expert_load.h"
#include "sim/simulate.h"

namespace rehearse {

// Work on a rank's own device.
struct LocalCost {
  Duration alone;
  Duration beside;  // on a GPU while communication kernels hold their SMs and memory bandwidth
  double memory_weight = 0;  // share of the node's memory system it takes at full speed, 0 to 1
};

struct OpCost {
  LocalCost pack, forward, work;  // as in OpCalls
  Bytes message;                  // to each receiver, over links when these are modelled
  // Of an all-to-all on GPUs, inside an overlapped pair or not: how much slower its SMs copy, and
  // what goes before its data.
  double copy_slowdown = 1;
  Duration preparation;
};

class OpCosts {
 public:
  // load: the counts that of() prices by; where they change, price() takes those of the moment.
  OpCosts(const Plan& plan,
          const Program& program,
          const std::optional<Calibration>& calibration,
          const CostVariation& variation,
          const GroupLoad& load);

  // member: of the op's EP group, whose ranks may have different loads.
  const OpCost& of(const Op& op, int64_t member) const {
    const size_t of_class = static_cast<size_t>(class_of_[static_cast<size_t>(op.id)]);
    return table_[of_class * members_ + member_class_[static_cast<size_t>(member)]];
  }
  LocalCost price_work(const Op& op, const MemberLoad& load) const;
  Overheads overheads() const;  // none without a calibration
  const CostSources& sources() const { return sources_; }

 private:
  OpCost price(const Op& op, const MemberLoad& load, CostSources* sources) const;
  LocalCost price_gpu(const Op& op, const MemberLoad& load, CostSources* sources) const;
  void price_exchange(const Op& op, const MemberLoad& load, OpCost& cost) const;
  bool overlapped(const Op& op) const;
  LocalCost price(const std::vector<KernelCall>& calls, CostSources* sources) const;
  double variation_of(const KernelCall& call, bool measured) const;

  const Plan& plan_;
  const Program& program_;
  const std::optional<Calibration>& calibration_;
  std::optional<GpuCosts> gpu_;
  CostVariation variation_;
  // Ops of a class, and members of a class, cost the same.
  std::vector<int32_t> class_of_;     // by op of a replica
  std::vector<size_t> member_class_;  // by member
  size_t members_ = 1;                // classes of members
  std::vector<OpCost> table_;         // by class of op x class of member
  CostSources sources_;
};

// The kernel calls of every distinct op of a plan: what `calibrate` measures.
std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program);

}  // namespace rehearse
