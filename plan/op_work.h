#pragma once
// The kernel calls of any op of a plan, those that end a step included, and their roofline.

#include <span>
#include <vector>

#include "plan/plan.h"

namespace rehearse {

// What `op` computes on its rank. expert_rows: rows of each of this rank's experts.
std::vector<KernelCall> op_work(const Plan& plan,
                                const Op& op,
                                std::span<const int64_t> expert_rows);

// The time that flops over peak, or bytes over memory bandwidth, allow at best.
Duration roofline(const Plan& plan, const KernelCall& call);
Duration roofline(const Plan& plan, std::span<const KernelCall> calls);  // their sum

// Bytes that each member of a ring of `members` sends on to reduce or gather `elements` elements:
// all shards but one.
Bytes ring_bytes(int64_t elements, int64_t members, int64_t element_bytes);

}  // namespace rehearse
