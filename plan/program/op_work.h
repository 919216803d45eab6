#pragma once
// The kernel calls of any op of a plan, those that end a step included, and their roofline.

#include <span>
#include <vector>

#include "cost/gpu_work.h"
#include "plan/plan.h"
#include "plan/routing/counts.h"

namespace rehearse {

// What routing leaves for one member of an EP group to do in one layer and micro-batch.
struct MemberLoad {
  std::vector<int64_t> expert_rows;        // of each expert that it holds
  std::optional<ExchangeTokens> exchange;  // where it holds not all of them
  bool operator==(const MemberLoad&) const = default;
};
MemberLoad member_load(const ExpertGroup& group, const RoutingCounts& counts, int64_t member);

// How a plan's Linears are computed on GPUs.
GpuRecipe gpu_recipe(const Plan& plan);
// What `op` computes on a GPU: inside cells by kind of work, at a step's end as arrays that stream
// through the device.
std::vector<GpuTask> gpu_work(const Plan& plan, const Op& op, const MemberLoad& load);

// What `op` computes on its rank.
OpCalls op_work(const Plan& plan, const Op& op, const MemberLoad& load);

// The time that flops over peak, or bytes over memory bandwidth, allow at best. sms, memory: the
// shares of the device's multiprocessors and of its memory bandwidth that the call has.
Duration roofline(const Plan& plan, const KernelCall& call, double sms = 1, double memory = 1);
Duration roofline(const Plan& plan, std::span<const KernelCall> calls);  // their sum

// Bytes that each member of a ring of `members` sends on to reduce or gather `elements` elements:
// all shards but one.
Bytes ring_bytes(int64_t elements, int64_t members, int64_t element_bytes);

}  // namespace rehearse
