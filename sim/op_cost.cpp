#include "sim/op_cost.h"

#include <algorithm>
#include <set>

#include "plan/routing.h"

namespace rehearse {
namespace {

bool has_experts(const Plan& plan, const Op& op) {
  return op.layer && plan.model.architecture.is_moe(*op.layer);
}

std::vector<KernelCall> layer_kernels(const Plan& plan,
                                      const Op& op,
                                      std::span<const int64_t> expert_rows) {
  const Architecture& a = plan.model.architecture;
  return op_kernels(a,
                    {.kind = op.kind,
                     .pass = op.pass,
                     .moe = has_experts(plan, op),
                     .sequences = plan.training.micro_batch_size,
                     .length = plan.training.sequence_length,
                     .expert_rows = expert_rows,
                     .sent_rows = plan.micro_batch_tokens() * a.active_experts});
}

// What the runtime does at the end of a step, on this rank.
std::vector<KernelCall> step_kernels(const Plan& plan, const Op& op) {
  const StageWeights w = stage_weights(plan, op.stage);
  const Layout& l = plan.layout;
  const int64_t replicas = l.directions() * l.dp;
  const int64_t expert_replicas = replicas / l.ep;
  const bool sharded = l.zero_stage > 0;
  const auto shard = [&](int64_t elements, int64_t n) { return (elements + n - 1) / n; };
  const bool experts = op.group == Group::kExpertReplicas;
  const int64_t elements = experts ? w.expert : w.dense;
  const int64_t copies = experts ? expert_replicas : replicas;
  std::vector<KernelCall> calls;
  switch (op.kind) {
    case OpKind::kGradReduce:
      calls.push_back({Kernel::kReduce, {shard(elements, copies), copies}});
      if (!sharded) calls.push_back({Kernel::kCopy, {elements - shard(elements, copies)}});
      break;
    case OpKind::kParamGather:
      calls.push_back({Kernel::kCopy, {elements - shard(elements, copies)}});
      break;
    case OpKind::kGradNorm:
      for (int64_t direction = 0; direction < l.directions(); ++direction) {
        const StageWeights held = stage_weights(plan, l.stage_of(op.pp_rank, direction));
        calls.push_back({Kernel::kSquareSum, {shard(held.dense, replicas)}});
        calls.push_back({Kernel::kSquareSum, {shard(held.expert, expert_replicas)}});
      }
      break;
    case OpKind::kOptimizer:
      calls.push_back({Kernel::kAdamW, {sharded ? shard(w.dense, replicas) : w.dense}});
      calls.push_back({Kernel::kAdamW, {sharded ? shard(w.expert, expert_replicas) : w.expert}});
      calls.push_back({Kernel::kFill, {w.dense}});
      calls.push_back({Kernel::kFill, {w.expert}});
      break;
    case OpKind::kSend:
      if (plan.cluster.device == DeviceKind::kCpu) {
        calls.push_back(
            {Kernel::kCopy, {plan.micro_batch_tokens() * plan.model.architecture.hidden}});
      }
      break;
    default:
      break;
  }
  std::erase_if(calls, [](const KernelCall& c) { return c.shape[kRowsEntry] <= 0; });
  return calls;
}

std::vector<KernelCall> all_kernels(const Plan& plan,
                                    const Op& op,
                                    std::span<const int64_t> expert_rows) {
  std::vector<KernelCall> calls = layer_kernels(plan, op, expert_rows);
  if (calls.empty()) calls = step_kernels(plan, op);
  return calls;
}

int64_t element_bytes(Precision precision) {
  return precision == Precision::kFp32 ? 4 : precision == Precision::kBf16 ? 2 : 1;
}

}  // namespace

OpCosts::OpCosts(const Plan& plan,
                 const Program& program,
                 const std::optional<Calibration>& calibration,
                 CostPoint point)
    : plan_(plan), program_(program), calibration_(calibration), point_(point) {
  expert_rows_ = balanced_expert_rows(plan);
  if (!expert_rows_.empty()) expert_rows_.resize(static_cast<size_t>(plan.local_experts()));
}

Duration OpCosts::lane_handover() const {
  return calibration_ ? calibration_->lane_handover : Duration();
}

const OpCost& OpCosts::of(const Op& op) {
  const Key key{op.kind, op.pass, has_experts(plan_, op), op.micro_batch ? 0 : op.stage, op.group};
  const auto known = known_.find(key);
  if (known != known_.end()) return known->second;
  return known_.emplace(key, price(op)).first->second;
}

OpCost OpCosts::price(const Op& op) {
  OpCost cost = price(all_kernels(plan_, op, expert_rows_));
  // Pipeline messages are BF16 where training is not FP32.
  const int64_t bytes = plan_.training.precision == Precision::kFp32 ? 4 : 2;
  if (op.kind == OpKind::kSend) {
    cost.message = Bytes(plan_.micro_batch_tokens() * plan_.model.architecture.hidden * bytes);
  } else if (op.kind == OpKind::kGradReduce || op.kind == OpKind::kParamGather) {
    const StageWeights w = stage_weights(plan_, op.stage);
    const auto members = static_cast<int64_t>(program_.members(op, 0).size());
    const int64_t elements = op.group == Group::kExpertReplicas ? w.expert : w.dense;
    const int64_t element = op.kind == OpKind::kGradReduce ? 4 : bytes;
    // A ring sends all but one shard past every member.
    cost.message = Bytes(elements / members * (members - 1) * element);
  }
  return cost;
}

OpCost OpCosts::price(const std::vector<KernelCall>& calls) {
  OpCost cost;
  double pressure = 0;
  for (const KernelCall& call : calls) {
    const auto time = calibration_ ? interpolate(*calibration_, call) : std::nullopt;
    if (!time) {
      ++sources_.roofline;
      sources_.unmeasured.insert(to_string(call));
      const Duration compute = flops(call) / plan_.cluster.peak;
      const Duration memory = memory_traffic(call, element_bytes(plan_.training.precision)) /
                              plan_.cluster.memory_bandwidth;
      cost.alone += std::max(compute, memory);
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
  std::vector<int64_t> rows = balanced_expert_rows(plan);
  if (!rows.empty()) rows.resize(static_cast<size_t>(plan.local_experts()));
  std::set<KernelCall> calls;
  for (const Op& op : program.ops()) {
    const auto of_op = all_kernels(plan, op, rows);
    calls.insert(of_op.begin(), of_op.end());
  }
  return {calls.begin(), calls.end()};
}

}  // namespace rehearse
