#include "plan/op_work.h"

#include <algorithm>

#include "plan/memory.h"

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

int64_t element_bytes(Precision precision) {
  return precision == Precision::kFp32 ? 4 : precision == Precision::kBf16 ? 2 : 1;
}

}  // namespace

std::vector<KernelCall> op_work(const Plan& plan,
                                const Op& op,
                                std::span<const int64_t> expert_rows) {
  std::vector<KernelCall> calls = layer_kernels(plan, op, expert_rows);
  if (calls.empty()) calls = step_kernels(plan, op);
  return calls;
}

Duration roofline(const Plan& plan, const KernelCall& call) {
  const Duration compute = flops(call) / plan.cluster.peak;
  const Duration memory =
      memory_traffic(call, element_bytes(plan.training.precision)) / plan.cluster.memory_bandwidth;
  return std::max(compute, memory);
}

Duration roofline(const Plan& plan, std::span<const KernelCall> calls) {
  Duration sum;
  for (const KernelCall& call : calls) sum += roofline(plan, call);
  return sum;
}

Bytes ring_bytes(int64_t elements, int64_t members, int64_t element_bytes) {
  return Bytes(elements / members * (members - 1) * element_bytes);
}

}  // namespace rehearse
