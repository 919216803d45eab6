#include "sim/op_cost.h"

#include <algorithm>
#include <cmath>
#include <set>

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

}  // namespace

std::vector<MemberLoad> balanced_loads(const Plan& plan) {
  if (plan.model.architecture.experts == 0) return {{}};
  const ExpertGroup group(plan, 0, 0);
  const RoutingCounts counts = balanced_routing(plan, group);
  std::vector<MemberLoad> loads;
  for (int64_t m = 0; m < group.size; ++m) loads.push_back(member_load(group, counts, m));
  return loads;
}

OpCosts::OpCosts(const Plan& plan,
                 const Program& program,
                 const std::optional<Calibration>& calibration,
                 const CostVariation& variation)
    : plan_(plan),
      program_(program),
      calibration_(calibration),
      variation_(variation),
      loads_(balanced_loads(plan)) {}

Overheads OpCosts::overheads() const {
  return calibration_ && plan_.cluster.device == DeviceKind::kCpu ? calibration_->overheads
                                                                  : Overheads{};
}

const OpCost& OpCosts::of(const Op& op, int64_t member) {
  const bool moe = op.layer && plan_.model.architecture.is_moe(*op.layer);
  const Key key{op.kind, op.pass, moe, op.micro_batch ? 0 : op.stage, op.group, moe ? member : 0};
  const auto known = known_.find(key);
  if (known != known_.end()) return known->second;
  return known_.emplace(key, price(op, member)).first->second;
}

OpCost OpCosts::price(const Op& op, int64_t member) {
  const OpCalls calls = op_work(plan_, op, loads_[static_cast<size_t>(member)]);
  OpCost cost{
      .pack = price(calls.pack), .forward = price(calls.forward), .work = price(calls.work)};
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

LocalCost OpCosts::price(const std::vector<KernelCall>& calls) {
  LocalCost cost;
  double pressure = 0;
  for (const KernelCall& call : calls) {
    if (plan_.cluster.device == DeviceKind::kEmulated) {
      ++sources_.stated;
      cost.alone += roofline(plan_, call);
      continue;
    }
    const auto found = calibration_ ? estimate(*calibration_, call) : std::nullopt;
    if (!found) {
      ++sources_.roofline;
      sources_.unmeasured.insert(to_string(call));
      cost.alone += roofline(plan_, call);
      continue;
    }
    ++(found->measured ? sources_.measured : sources_.interpolated);
    const KernelTime& time = found->time;
    const double seconds = time.mean.seconds() * variation_of(call, found->measured);
    cost.alone += Duration::seconds(seconds);
    // cores runs at once, each slowed to busy: each takes busy / (cores x alone) of what they
    // share.
    pressure += seconds * std::min(1.0, time.busy / (time.alone * calibration_->cores));
  }
  if (cost.alone > Duration()) cost.memory_weight = pressure / cost.alone.seconds();
  return cost;
}

std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program) {
  const std::vector<MemberLoad> loads = balanced_loads(plan);
  std::set<KernelCall> calls;
  for (const Op& op : program.ops()) {
    for (const MemberLoad& load : loads) {
      const std::vector<KernelCall> of_op = op_work(plan, op, load).all();
      calls.insert(of_op.begin(), of_op.end());
    }
  }
  return {calls.begin(), calls.end()};
}

}  // namespace rehearse
