#include "plan/program/op_work.h"

#include <algorithm>

#include "plan/program/memory.h"

namespace rehearse {
namespace {

bool has_experts(const Plan& plan, const Op& op) {
  return op.layer && plan.model.architecture.is_moe(*op.layer);
}

OpShape layer_shape(const Plan& plan, const Op& op, const MemberLoad& load) {
  return {.kind = op.kind,
          .pass = op.pass,
          .moe = has_experts(plan, op),
          .sequences = plan.training.micro_batch_size,
          .length = plan.training.sequence_length,
          .expert_rows = load.expert_rows,
          .exchange = load.exchange};
}

OpCalls layer_kernels(const Plan& plan, const Op& op, const MemberLoad& load) {
  return op_kernels(plan.model.architecture, layer_shape(plan, op, load));
}

// Bytes that a call at a step's end moves through a GPU's memory: gradients and master weights are
// FP32, moments BF16 under FP8 training and FP32 else (report, section 3.3.3), weights are written
// in BF16, sums of squares read FP32.
int64_t step_bytes(const Plan& plan, const KernelCall& call) {
  const int64_t elements = call.shape[kRowsEntry];
  const bool fp8 = plan.training.precision == Precision::kFp8;
  switch (call.kernel) {
    case Kernel::kAdamW:
      return elements * (4 + 2 * 4 + 4 * (fp8 ? 2 : 4) + 2);
    case Kernel::kReduce:
      return elements * (call.shape[1] + 1) * 4;
    case Kernel::kCopy:  // gathered weights
      return elements * 2 * 2;
    default:  // filled, summed
      return elements * 4;
  }
}

// What the runtime does at the end of a step, on this rank.
OpCalls step_kernels(const Plan& plan, const Op& op) {
  const StageWeights w = stage_weights(plan, op.stage);
  const Layout& l = plan.layout;
  const int64_t replicas = l.copies() * l.dp;
  const int64_t expert_replicas = replicas / l.ep;
  const bool sharded = l.zero_stage > 0;
  const auto shard = [&](int64_t elements, int64_t n) { return (elements + n - 1) / n; };
  const bool experts = op.group == Group::kExpertReplicas;
  const int64_t elements = experts ? w.expert : w.dense;
  const int64_t copies = experts ? expert_replicas : replicas;
  OpCalls calls;
  std::vector<KernelCall>& work = calls.work;
  switch (op.kind) {
    case OpKind::kGradReduce:
      work.push_back({Kernel::kReduce, {shard(elements, copies), copies}});
      if (!sharded) work.push_back({Kernel::kCopy, {elements - shard(elements, copies)}});
      break;
    case OpKind::kParamGather:
      work.push_back({Kernel::kCopy, {elements - shard(elements, copies)}});
      break;
    case OpKind::kGradNorm:
      for (int64_t direction = 0; direction < l.slots(); ++direction) {
        const StageWeights held = stage_weights(plan, l.stage_of(op.pp_rank, direction));
        work.push_back({Kernel::kSquareSum, {shard(held.dense, replicas)}});
        work.push_back({Kernel::kSquareSum, {shard(held.expert, expert_replicas)}});
      }
      break;
    case OpKind::kOptimizer:
      work.push_back({Kernel::kAdamW, {sharded ? shard(w.dense, replicas) : w.dense}});
      work.push_back({Kernel::kAdamW, {sharded ? shard(w.expert, expert_replicas) : w.expert}});
      work.push_back({Kernel::kFill, {w.dense}});
      work.push_back({Kernel::kFill, {w.expert}});
      break;
    case OpKind::kSend:
    case OpKind::kRecv:
      // On cores a message is copied into the mailbox and out of it.
      if (plan.cluster.device == DeviceKind::kCpu) {
        (op.kind == OpKind::kSend ? calls.pack : work)
            .push_back(
                {Kernel::kCopy, {plan.micro_batch_tokens() * plan.model.architecture.hidden}});
      }
      break;
    default:
      break;
  }
  std::erase_if(work, [](const KernelCall& c) { return c.shape[kRowsEntry] <= 0; });
  return calls;
}

int64_t element_bytes(Precision precision) {
  return precision == Precision::kFp32 ? 4 : precision == Precision::kBf16 ? 2 : 1;
}

}  // namespace

MemberLoad member_load(const ExpertGroup& group, const RoutingCounts& counts, int64_t member) {
  MemberLoad load;
  const int64_t first = member * group.experts_per_member;
  for (int64_t e = first; e < first + group.experts_per_member; ++e) {
    load.expert_rows.push_back(counts.expert_rows(e));
  }
  if (group.size == 1) return load;
  ExchangeTokens x;
  const auto at = [](const auto& table, int64_t row, int64_t column) {
    return table[static_cast<size_t>(row)][static_cast<size_t>(column)];
  };
  const int64_t here = group.node_of(member);
  for (int64_t node = 0; node < group.nodes; ++node) {
    x.sent += at(counts.to_node, member, node);
    const int64_t source = group.member(node, group.position_of(member));
    x.received += at(counts.to_node, source, here);
    for (int64_t p = 0; p < group.per_node; ++p) {
      x.forwarded += at(counts.to_rank, source, group.member(here, p));
    }
  }
  for (int64_t source = 0; source < group.size; ++source) {
    x.arrived += at(counts.to_rank, source, member);
  }
  load.exchange = x;
  return load;
}

GpuRecipe gpu_recipe(const Plan& plan) {
  return {.format = plan.training.precision == Precision::kFp8 ? Format::kFp8 : Format::kBf16,
          .context_parallel = plan.training.context_parallel};
}

std::vector<GpuTask> gpu_work(const Plan& plan, const Op& op, const MemberLoad& load) {
  if (is_cell_compute(op.kind)) {
    return gpu_tasks(plan.model.architecture, layer_shape(plan, op, load), gpu_recipe(plan));
  }
  int64_t bytes = 0;
  for (const KernelCall& call : step_kernels(plan, op).all()) bytes += step_bytes(plan, call);
  if (bytes == 0) return {};
  return {{.kind = WorkKind::kStream, .bytes = Bytes(bytes)}};
}

OpCalls op_work(const Plan& plan, const Op& op, const MemberLoad& load) {
  return is_cell_compute(op.kind) || is_all_to_all(op.kind) ? layer_kernels(plan, op, load)
                                                            : step_kernels(plan, op);
}

Duration roofline(const Plan& plan, const KernelCall& call, double sms, double memory) {
  const Duration compute = flops(call) / FlopsPerSecond(plan.cluster.peak.value() * sms);
  const Duration traffic = memory_traffic(call, element_bytes(plan.training.precision)) /
                           BytesPerSecond(plan.cluster.memory_bandwidth.value() * memory);
  return std::max(compute, traffic);
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
