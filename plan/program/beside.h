#pragma once
// What computes beside an all-to-all in an overlapped pair, read off the Program.

#include <utility>
#include <vector>

#include "plan/program/op_work.h"

namespace rehearse {

// The compute ops behind `exchange` in a rank's order of issue, up to the one that the next
// all-to-all of its lane waits for, between two layers with experts of an overlapped pair: until
// then the lane is this exchange's alone. Sources: as the order of a pair (plan/program/build.cpp).
std::vector<OpName> ops_beside(OpName exchange);

using OpTasks = std::vector<std::pair<OpName, std::vector<GpuTask>>>;
// Their tasks on a rank that has `load`.
OpTasks tasks_beside(const OpWork& work, OpName exchange, const MemberLoad& load);

}  // namespace rehearse
