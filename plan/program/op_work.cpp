#include "plan/program/op_work.h"

#include <algorithm>

#include "base/integers.h"
#include "cost/conversions.h"
#include "plan/program/memory.h"

namespace rehearse {
namespace {

// Bytes that a call at a step's end moves through a GPU's memory: gradients and master weights are
// FP32, moments as the precision says, weights are written in BF16, sums of squares read FP32
// (report, section 3.3.3).
int64_t step_bytes(const PrecisionBytes& bytes, const KernelCall& call) {
  const int64_t elements = call.shape[kRowsEntry];
  switch (call.kernel) {
    case Kernel::kAdamW:  // gradient; master weight and both moments read and written; weight
      return elements * (4 + 2 * 4 + 2 * 2 * bytes.moment + 2);
    case Kernel::kReduce:
      return elements * (call.shape[1] + 1) * 4;
    case Kernel::kCopy:  // gathered weights
      return elements * 2 * 2;
    default:  // filled, summed
      return elements * 4;
  }
}

}  // namespace

GpuRecipe gpu_recipe(const Plan& plan) {
  const Layout& l = plan.layout;
  return {.format = bytes_of(plan.training.precision).linears.value_or(Format::kBf16),
          .context_parallel = l.cp,
          .tensor_parallel = l.tp,
          .sequence_parallel = l.sequence_parallel,
          .ring = l.cp > 1 && l.context == ContextKind::kRing,
          .core = plan.training.core,
          .rows_travel = l.ep > 1 && l.dispatcher == Dispatcher::kAllToAll,
          .recompute = plan.training.recompute};
}

OpWork::OpWork(const Plan& plan)
    : plan_(plan),
      layers_(plan.model.architecture, {.tp = plan.layout.tp, .etp = plan.layout.etp}) {}

OpShape OpWork::shape(const Op& op, const MemberLoad& load) const {
  return {.kind = op.kind,
          .pass = work_of(op.pass),
          .moe = op.layer && layers_.architecture.is_moe(*op.layer),
          .windowed = op.layer && layers_.architecture.is_windowed(*op.layer),
          .sequences = plan_.training.micro_batch_size,
          .length = plan_.training.sequence_length,
          .expert_rows = load.expert_rows,
          .exchange = load.exchange};
}

// What the runtime does at the end of a step, and for a pipeline message, on this rank.
OpCalls OpWork::step_calls(const Op& op) const {
  const StageWeights w = stage_weights(plan_, op.stage);
  const Layout& l = plan_.layout;
  const bool sharded = l.zero_stage > 0;
  const bool experts = op.group == Group::kExpertReplicas;
  const int64_t elements = weights_of(op);
  const int64_t copies = op.group == Group::kEmbeddings ? 2
                         : experts                      ? l.expert_replicas()
                                                        : l.replicas();
  OpCalls calls;
  std::vector<KernelCall>& work = calls.work;
  switch (op.kind) {
    case OpKind::kGradReduce:
      work.push_back({Kernel::kReduce, {ceil_div(elements, copies), copies}});
      if (!sharded) work.push_back({Kernel::kCopy, {elements - ceil_div(elements, copies)}});
      break;
    case OpKind::kParamGather:
      work.push_back({Kernel::kCopy, {elements - ceil_div(elements, copies)}});
      break;
    case OpKind::kGradNorm:
      for (int64_t direction = 0; direction < l.slots(); ++direction) {
        const StageWeights held = stage_weights(plan_, l.stage_of(op.pp_rank, direction));
        work.push_back({Kernel::kSquareSum, {ceil_div(held.dense, l.replicas())}});
        work.push_back({Kernel::kSquareSum, {ceil_div(held.expert, l.expert_replicas())}});
      }
      break;
    case OpKind::kOptimizer:
      work.push_back({Kernel::kAdamW, {sharded ? ceil_div(w.dense, l.replicas()) : w.dense}});
      work.push_back(
          {Kernel::kAdamW, {sharded ? ceil_div(w.expert, l.expert_replicas()) : w.expert}});
      work.push_back({Kernel::kFill, {w.dense}});
      work.push_back({Kernel::kFill, {w.expert}});
      break;
    case OpKind::kSend:
    case OpKind::kRecv:
      // On cores a message is copied into the mailbox and out of it.
      if (plan_.cluster.on_cores()) {
        (op.kind == OpKind::kSend ? calls.pack : work)
            .push_back(
                {Kernel::kCopy, {plan_.micro_batch_tokens() * plan_.model.architecture.hidden}});
      }
      break;
    default:
      break;
  }
  std::erase_if(work, [](const KernelCall& c) { return c.shape[kRowsEntry] <= 0; });
  return calls;
}

OpCalls OpWork::calls(const Op& op, const MemberLoad& load) const {
  const bool cell = is_cell_compute(op.kind) || is_all_to_all(op.kind);
  OpCalls calls =
      cell ? op_kernels(layers_, shape(op, load), plan_.training.recompute) : step_calls(op);
  if (plan_.cluster.of_gpus()) return calls;
  const RuntimeFormats formats = runtime_formats(plan_.training);
  OpShape of_step{.kind = OpKind::kHead};  // its conversions are those of the model's end
  add_conversions(layers_, cell ? shape(op, load) : of_step, formats, calls);
  if (formats.operand.scaled) add_weight_codes(op, calls);
  return calls;
}

// Linears' weights become codes where an arena is whole again: behind the gather, or without one.
void OpWork::add_weight_codes(const Op& op, OpCalls& calls) const {
  const Layout& l = plan_.layout;
  const StageWeights w = stage_weights(plan_, op.stage);
  int64_t elements = 0;
  if (op.kind == OpKind::kParamGather) elements = weights_of(op);
  if (op.kind == OpKind::kOptimizer) {
    const auto whole = [&](int64_t replicas) { return l.zero_stage == 0 || replicas == 1; };
    if (whole(l.replicas())) elements += w.dense;
    if (whole(l.expert_replicas())) elements += w.expert;
  }
  if (elements > 0) calls.work.push_back({Kernel::kQuantize, {elements}});
}

std::vector<GpuTask> OpWork::tasks(const Op& op, const MemberLoad& load) const {
  if (is_cell_compute(op.kind)) return gpu_tasks(layers_, shape(op, load), gpu_recipe(plan_));
  int64_t bytes = 0;
  for (const KernelCall& call : step_calls(op).all()) {
    bytes += step_bytes(bytes_of(plan_.training), call);
  }
  if (bytes == 0) return {};
  return {{.kind = WorkKind::kStream, .bytes = Bytes(bytes)}};
}

std::vector<GpuTask> OpWork::layer_tasks(OpName op, const MemberLoad& load) const {
  const Architecture& a = layers_.architecture;
  const auto last = static_cast<int32_t>(a.experts > 0 ? a.last_moe_layer() : a.layers - 1);
  return gpu_tasks(layers_,
                   shape({.kind = op.first, .pass = op.second, .layer = last}, load),
                   gpu_recipe(plan_));
}

Bytes OpWork::message(const Op& op, int64_t members) const {
  const int64_t element = bytes_of(plan_.training.precision).message;
  if (op.kind == OpKind::kSend) {
    return Bytes(plan_.micro_batch_tokens() * layers_.architecture.hidden * element);
  }
  if (is_shared_work(op.kind)) {
    // Without sequence parallelism the sum goes round a second time, to everybody.
    const bool twice = op.group == Group::kTensorParallel && !plan_.layout.sequence_parallel;
    return shared_part(op) * (members - 1) * (twice ? 2 : 1);
  }
  if (!is_ring(op.kind)) return Bytes();
  const int64_t elements = weights_of(op);
  // Gradients are summed in FP32.
  const bool sum = op.kind == OpKind::kGradReduce;
  const Bytes once = ring_bytes(elements, members, sum ? 4 : element);
  if (op.group == Group::kEmbeddings) return once * 2;
  // Without ZeRO the sums go round a second time, to everybody.
  return sum && plan_.layout.zero_stage == 0 ? once * 2 : once;
}

// Elements that a collective over replicas moves: of a layer, of a stage's ends, of all of it.
int64_t OpWork::weights_of(const Op& op) const {
  const bool experts = op.group == Group::kExpertReplicas;
  if (op.group == Group::kEmbeddings) return stage_ends(plan_, 0);
  if (op.layer) {
    const StageWeights w = layer_weights(plan_, *op.layer);
    return experts ? w.expert : w.dense;
  }
  if (op.micro_batch) return stage_ends(plan_, op.stage);
  const StageWeights w = stage_weights(plan_, op.stage);
  return experts ? w.expert : w.dense;
}

// What one rank has of what a collective of shared work gathers, in BF16: tokens' values between
// matrices, compressed where that is enough; keys and values of a sequence, in backward once more
// with their gradients going back; rows of experts.
Bytes OpWork::shared_part(const Op& op) const {
  const Architecture& a = layers_.architecture;
  const Layout& l = plan_.layout;
  constexpr int64_t kBf16 = 2;
  const int64_t tokens = plan_.gathered_tokens() / l.tp;  // of each rank, where they are shared
  const bool forward = work_of(op.pass) != Pass::kInput;
  switch (op.group) {
    case Group::kContextParallel:
      return Bytes(plan_.gathered_tokens() * layers_.at(*op.layer).context_width * kBf16 *
                   (forward ? 1 : 2));
    case Group::kExpertTensor:
      return Bytes(plan_.micro_batch_tokens() * a.active_experts * a.hidden * kBf16);
    default:
      break;
  }
  int64_t width = a.hidden;
  const bool reads = op.kind == OpKind::kGather;
  if (op.of == OpKind::kAttn && reads) width = layers_.at(*op.layer).tensor_width;
  if (op.of == OpKind::kMtp && reads) width = 2 * a.hidden;
  return Bytes(tokens * width * kBf16);
}

namespace {

// Whether a kernel works on FP32 whatever the precision: scores, logits, sums, gradients, masters.
bool is_exact(Kernel kernel) {
  switch (kernel) {
    case Kernel::kGate:
    case Kernel::kGateBackward:
    case Kernel::kCrossEntropy:
    case Kernel::kCrossEntropyBackward:
    case Kernel::kAdamW:
    case Kernel::kReduce:
    case Kernel::kSquareSum:
    case Kernel::kFill:
      return true;
    default:
      return false;
  }
}

}  // namespace

Duration roofline(const Plan& plan, const KernelCall& call) {
  // The device that is emulated computes in BF16 itself.
  if (call.kernel == Kernel::kConvert && plan.cluster.emulated()) return {};
  constexpr int64_t kFp32 = 4;
  const int64_t element =
      is_exact(call.kernel) ? kFp32 : bytes_of(plan.training.precision).activation;
  const Duration compute = flops(call) / plan.cluster.peak;
  const Duration traffic = memory_traffic(call, element) / plan.cluster.memory_bandwidth;
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
