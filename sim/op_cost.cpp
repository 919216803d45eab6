#include "sim/op_cost.h"

#include <algorithm>
#include <set>

#include "plan/op_work.h"

namespace rehearse {
std::vector<int64_t> balanced_rows_here(const Plan& plan) {
  const Architecture& a = plan.model.architecture;
  if (a.experts == 0) return {};
  const ExpertGroup group(plan, 0, 0);
  const RoutingCounts counts = balanced_routing(plan, group);
  std::vector<int64_t> rows;
  for (int64_t e = 0; e < group.experts_per_member; ++e) rows.push_back(counts.expert_rows(e));
  return rows;
}

OpCosts::OpCosts(const Plan& plan,
                 const Program& program,
                 const std::optional<Calibration>& calibration,
                 CostPoint point)
    : plan_(plan), program_(program), calibration_(calibration), point_(point) {
  expert_rows_ = balanced_rows_here(plan);
}

Duration OpCosts::lane_handover() const {
  return calibration_ ? calibration_->lane_handover : Duration();
}

const OpCost& OpCosts::of(const Op& op) {
  const bool moe = op.layer && plan_.model.architecture.is_moe(*op.layer);
  const Key key{op.kind, op.pass, moe, op.micro_batch ? 0 : op.stage, op.group};
  const auto known = known_.find(key);
  if (known != known_.end()) return known->second;
  return known_.emplace(key, price(op)).first->second;
}

OpCost OpCosts::price(const Op& op) {
  OpCost cost = price(op_work(plan_, op, expert_rows_));
  // Pipeline messages are BF16 where training is not FP32.
  const int64_t bytes = plan_.training.precision == Precision::kFp32 ? 4 : 2;
  if (op.kind == OpKind::kSend) {
    cost.message = Bytes(plan_.micro_batch_tokens() * plan_.model.architecture.hidden * bytes);
  } else if (op.kind == OpKind::kGradReduce || op.kind == OpKind::kParamGather) {
    const StageWeights w = stage_weights(plan_, op.stage);
    const auto members = static_cast<int64_t>(program_.members(op, 0).size());
    const int64_t elements = op.group == Group::kExpertReplicas ? w.expert : w.dense;
    const int64_t element = op.kind == OpKind::kGradReduce ? 4 : bytes;
    cost.message = ring_bytes(elements, members, element);
    // Without ZeRO the sums go round a second time, to everybody.
    if (op.kind == OpKind::kGradReduce && plan_.layout.zero_stage == 0) {
      cost.message = cost.message * 2;
    }
  }
  return cost;
}

OpCost OpCosts::price(const std::vector<KernelCall>& calls) {
  OpCost cost;
  double pressure = 0;
  for (const KernelCall& call : calls) {
    if (plan_.cluster.device == DeviceKind::kEmulated) {
      ++sources_.stated;
      cost.alone += roofline(plan_, call);
      continue;
    }
    const auto time = calibration_ ? interpolate(*calibration_, call) : std::nullopt;
    if (!time) {
      ++sources_.roofline;
      sources_.unmeasured.insert(to_string(call));
      cost.alone += roofline(plan_, call);
      continue;
    }
    ++sources_.measured;
    const Duration alone = point_ == CostPoint::kLow    ? time->low
                           : point_ == CostPoint::kHigh ? time->high
                                                        : time->alone;
    cost.alone += alone;
    // cores runs at once, each slowed to busy: each takes busy / (cores x alone) of what they
    // share.
    pressure += alone.seconds() * std::min(1.0, time->busy / (time->alone * calibration_->cores));
  }
  if (cost.alone > Duration()) cost.memory_weight = pressure / cost.alone.seconds();
  return cost;
}

std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program) {
  const std::vector<int64_t> rows = balanced_rows_here(plan);
  std::set<KernelCall> calls;
  for (const Op& op : program.ops()) {
    const auto of_op = op_work(plan, op, rows);
    calls.insert(of_op.begin(), of_op.end());
  }
  return {calls.begin(), calls.end()};
}

}  // namespace rehearse
