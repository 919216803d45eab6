#include "sim/price/op_cost.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include <fmt/format.h>

#include "sim/import/profile.h"

namespace rehearse {
namespace {

// A standard normal number that follows from `seed` and `call` alone (SplitMix64's finalizer over
// its entries; the sum of twelve uniform numbers less six).
double normal_of(uint64_t seed, const KernelCall& call) {
  uint64_t state = seed;
  const auto next = [&](uint64_t value) {
    state += value + 0x9e3779b97f4a7c15ULL;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    state = z ^ (z >> 31);
    return static_cast<double>(state >> 11) * 0x1.0p-53;
  };
  next(static_cast<uint64_t>(call.kernel));
  for (const int64_t entry : call.shape) next(static_cast<uint64_t>(entry));
  double sum = -6;
  for (uint64_t i = 0; i < 12; ++i) sum += next(i);
  return sum;
}

// Of a device's memory bandwidth, what communication kernels take at full speed: every byte that
// they copy is read and written. Where nobody has said how fast they copy, as fast as links carry.
double communication_memory_share(const Cluster& c) {
  double bytes = 0;
  if (c.copy_per_sm) {
    bytes = 2 * c.copy_per_sm->value() * static_cast<double>(c.communication_sms);
  } else {
    if (c.node_link) bytes += 2 * c.node_link->bandwidth.value();
    if (c.network) bytes += 2 * c.network->bandwidth.value();
  }
  return std::min(0.5, bytes / c.memory_bandwidth.value());
}

void check_formats(const Plan& plan) {
  if (plan.training.precision == Precision::kFp32) {
    throw InputError(
        plan.path +
        ": training.precision: a calibration of GPUs has times of fp8 and bf16, not of "
        "fp32");
  }
  if (plan.training.precision == Precision::kFp8 && !plan.cluster.peak_fp8) {
    throw InputError(fmt::format(
        "{}: training.precision: cluster '{}' states no peak_fp8: its devices have no FP8 tensor "
        "cores; use bf16",
        plan.path,
        plan.cluster.name));
  }
}

// Seconds in which ranks that share a sequence gather its compressed keys and values (and, in
// backward, once more, their gradients going back), before the core can start.
double gather_context(const Plan& plan, const Op& op) {
  const int64_t ranks = plan.training.context_parallel;
  if (ranks == 1 || op.kind != OpKind::kAttn || op.pass == Pass::kWeight) return 0;
  const Architecture& a = plan.model.architecture;
  const int64_t times = op.pass == Pass::kForward ? 1 : 2;
  const int64_t bytes = plan.micro_batch_tokens() * (ranks - 1) * (a.kv_lora + a.qk_rope) * 2;
  const bool inside = ranks <= plan.cluster.devices_per_node;
  const std::optional<Link>& link = inside ? plan.cluster.node_link : plan.cluster.network;
  return link ? static_cast<double>(bytes * times) / link->bandwidth.value() : 0;
}

}  // namespace

OpCosts::OpCosts(const Plan& plan,
                 const Program& program,
                 const std::optional<Calibration>& calibration,
                 const CostVariation& variation,
                 const GroupLoad& load)
    : plan_(plan), program_(program), calibration_(calibration), variation_(variation) {
  std::vector<const MemberLoad*> kinds;
  for (const MemberLoad& m : load.members) {
    const auto same =
        std::find_if(kinds.begin(), kinds.end(), [&](const MemberLoad* k) { return *k == m; });
    member_class_.push_back(static_cast<size_t>(same - kinds.begin()));
    if (same == kinds.end()) kinds.push_back(&m);
  }
  members_ = kinds.size();
  if (calibration && (plan.cluster.device == DeviceKind::kGpu) != (calibration->gpu != nullptr)) {
    throw InputError(fmt::format("{}: its calibration is of {}, its cluster '{}' is not",
                                 plan.path,
                                 calibration->gpu ? "GPUs" : "a CPU's kernels",
                                 plan.cluster.name));
  }
  if (calibration && calibration->gpu) gpu_.emplace(*calibration->gpu, plan.cluster);
  if (gpu_) check_formats(plan);
  if (!gpu_ && plan.training.context_parallel > 1) {
    throw InputError(plan.path +
                     ": training.context_parallel: needs a cluster of GPUs and a calibration of "
                     "GPUs, such as h800-dualpipe.calibration.yaml");
  }
  using Key = std::tuple<OpKind, Pass, bool, int32_t, Group, bool>;
  std::map<Key, int32_t> classes;
  for (const Op& op : program.ops()) {
    const bool moe = op.layer && plan.model.architecture.is_moe(*op.layer);
    const bool pair = gpu_ && overlapped(op);
    const Key key{op.kind, op.pass, moe, op.micro_batch ? 0 : op.stage, op.group, pair};
    const auto [at, fresh] = classes.emplace(key, static_cast<int32_t>(classes.size()));
    class_of_.push_back(at->second);
    if (!fresh) continue;
    for (size_t k = 0; k < kinds.size(); ++k) {
      // Members' loads matter to ops of layers with experts alone.
      table_.push_back(moe || k == 0 ? price(op, *kinds[k], &sources_) : table_.back());
    }
  }
}

Overheads OpCosts::overheads() const {
  return calibration_ && plan_.cluster.device == DeviceKind::kCpu ? calibration_->overheads
                                                                  : Overheads{};
}

LocalCost OpCosts::price_work(const Op& op, const MemberLoad& load) const {
  return gpu_ ? price_gpu(op, load, nullptr) : price(op_work(plan_, op, load).work, nullptr);
}

LocalCost OpCosts::price_gpu(const Op& op, const MemberLoad& load, CostSources* sources) const {
  const std::vector<GpuTask> tasks = gpu_work(plan_, op, load);
  const GpuCosts::Time t = gpu_->time(op.kind, op.pass, tasks);
  if (sources != nullptr) {
    for (const GpuTask& task : tasks) {
      const GpuCosts::Time one = gpu_->time(op.kind, op.pass, task);
      if (!one.known) {
        ++sources->roofline;
        sources->unmeasured.insert(fmt::format("{} of {}", name_of(task.kind), to_string(op)));
      } else {
        ++(one.measured > 0 ? sources->measured : sources->interpolated);
      }
    }
  }
  // What was not measured varies op by op, the rest with the device.
  double factor = variation_.common;
  if (variation_.interpolated > 0 && t.beside > 0) {
    const KernelCall name{.shape = {static_cast<int64_t>(op.kind), static_cast<int64_t>(op.pass)}};
    const double told = 1 - t.measured / t.beside;
    factor *= std::exp(told * variation_.interpolated * normal_of(variation_.seed, name));
  }
  // In an overlapped pair kernels are launched for the SMs that communication leaves, whether or
  // not it is there at the moment.
  const double gather = gather_context(plan_, op);
  return {.alone = Duration::seconds((overlapped(op) ? t.beside : t.alone) * factor + gather),
          .beside = Duration::seconds(t.beside * factor + gather)};
}

// Whether the op stands in a cell in which one micro-batch computes while the other communicates.
bool OpCosts::overlapped(const Op& op) const {
  const RankSchedule& schedule = program_.schedule(op.pp_rank);
  const auto cell = static_cast<size_t>(op.cell);
  return plan_.layout.ep > 1 && cell < schedule.size() &&
         schedule[cell].kind == CellKind::kOverlapped;
}

void OpCosts::price_exchange(const Op& op, const MemberLoad& load, OpCost& cost) const {
  const std::vector<GpuTask> before = layer_tasks(plan_, {op.kind, op.pass}, load);
  const GpuCosts::Time t = gpu_->time(op.kind, op.pass, before);
  cost.preparation = Duration::seconds((overlapped(op) ? t.beside : t.alone) * variation_.common);
  if (!overlapped(op)) return;
  const double demand = gpu_->demand(tasks_beside(plan_, {op.kind, op.pass}, load));
  cost.copy_slowdown = gpu_->copy_slowdown(op.kind, op.pass, demand) * variation_.common;
}

OpCost OpCosts::price(const Op& op, const MemberLoad& load, CostSources* sources) const {
  OpCost cost;
  if (gpu_) {
    cost.work = price_gpu(op, load, sources);
    if (is_all_to_all(op.kind)) price_exchange(op, load, cost);
  } else {
    const OpCalls calls = op_work(plan_, op, load);
    cost.pack = price(calls.pack, sources);
    cost.forward = price(calls.forward, sources);
    cost.work = price(calls.work, sources);
  }
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

double OpCosts::variation_of(const KernelCall& call, bool measured) const {
  if (measured || variation_.interpolated == 0) return variation_.common;
  return variation_.common * std::exp(variation_.interpolated * normal_of(variation_.seed, call));
}

LocalCost OpCosts::price(const std::vector<KernelCall>& calls, CostSources* sources) const {
  LocalCost cost;
  double pressure = 0;
  const Cluster& cluster = plan_.cluster;
  const bool gpu = cluster.device == DeviceKind::kGpu;
  const double sms = static_cast<double>(cluster.sms - cluster.communication_sms) /
                     static_cast<double>(cluster.sms);
  const double memory = gpu ? 1 - communication_memory_share(cluster) : 1;
  for (const KernelCall& call : calls) {
    if (cluster.device == DeviceKind::kEmulated) {
      if (sources) ++sources->stated;
      cost.alone += roofline(plan_, call);
      continue;
    }
    const auto found = calibration_ ? estimate(*calibration_, call) : std::nullopt;
    if (!found) {
      if (sources) {
        ++sources->roofline;
        sources->unmeasured.insert(to_string(call));
      }
      cost.alone += roofline(plan_, call);
      if (gpu) cost.beside += roofline(plan_, call, sms, memory);
      continue;
    }
    if (sources) ++(found->measured ? sources->measured : sources->interpolated);
    const KernelTime& time = found->time;
    const double seconds = time.mean.seconds() * variation_of(call, found->measured);
    cost.alone += Duration::seconds(seconds);
    if (gpu) {
      cost.beside +=
          Duration::seconds(seconds * (roofline(plan_, call, sms, memory) / roofline(plan_, call)));
    }
    // cores runs at once, each slowed to busy: each takes busy / (cores x alone) of what they
    // share.
    pressure += seconds * std::min(1.0, time.busy / (time.alone * calibration_->cores));
  }
  if (cost.alone > Duration()) cost.memory_weight = pressure / cost.alone.seconds();
  return cost;
}

std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program) {
  ExpertLoad load(plan);
  std::set<KernelCall> calls;
  for (const Op& op : program.ops()) {
    for (const MemberLoad& member : load.of(0, 0, 0).members) {
      const std::vector<KernelCall> of_op = op_work(plan, op, member).all();
      calls.insert(of_op.begin(), of_op.end());
    }
  }
  return {calls.begin(), calls.end()};
}

}  // namespace rehearse
