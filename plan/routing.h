#pragma once
// Routing counts: how many rows each expert computes, per layer and micro-batch. They resolve the
// Program's symbolic sizes; the runtime measures them, the simulator is given them.

#include <cstdint>
#include <vector>

#include "plan/plan.h"

namespace rehearse {

// Rows per expert of one EP group for one micro-batch of every one of its ranks, were routing
// perfectly balanced: [experts], summing to EP x tokens x top-k. What does not divide goes to the
// first experts.
std::vector<int64_t> balanced_expert_rows(const Plan& plan);

}  // namespace rehearse
