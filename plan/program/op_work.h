#pragma once
// What any op of a plan computes, those that end a step included: as kernel calls of this project's
// runtime, and as a GPU's tasks.

#include <span>
#include <vector>

#include "cost/gpu_tasks.h"
#include "plan/plan.h"
#include "plan/program/op.h"
#include "plan/routing/counts.h"

namespace rehearse {

// How a plan's Linears are computed on GPUs.
GpuRecipe gpu_recipe(const Plan& plan);

class OpWork {
 public:
  explicit OpWork(const Plan& plan);  // must outlive it

  // What `op` computes on its rank.
  OpCalls calls(const Op& op, const MemberLoad& load) const;
  // The same on a GPU: inside cells by kind of work, at a step's end as arrays that stream through
  // the device; of all-to-alls nothing (see layer_tasks).
  std::vector<GpuTask> tasks(const Op& op, const MemberLoad& load) const;
  // Of an op of the model's last layer with experts whose rank has `load`; of an all-to-all what
  // goes before its data.
  std::vector<GpuTask> layer_tasks(OpName op, const MemberLoad& load) const;
  // Bytes that one rank sends of `op`: of a pipeline message, or round a ring of `members`; none
  // for other ops.
  Bytes message(const Op& op, int64_t members) const;

 private:
  OpShape shape(const Op& op, const MemberLoad& load) const;
  OpCalls step_calls(const Op& op) const;
  void add_weight_codes(const Op& op, OpCalls& calls) const;
  Bytes shared_part(const Op& op) const;
  int64_t weights_of(const Op& op) const;

  const Plan& plan_;
  Layers layers_;
};

// The time that flops over peak, or bytes over memory bandwidth, allow a call of this project's
// kernels at best, on one core or emulated device: what such a device is emulated by.
Duration roofline(const Plan& plan, const KernelCall& call);
Duration roofline(const Plan& plan, std::span<const KernelCall> calls);  // their sum

// Bytes that each member of a ring of `members` sends on to reduce or gather `elements` elements:
// all shards but one.
Bytes ring_bytes(int64_t elements, int64_t members, int64_t element_bytes);

}  // namespace rehearse
