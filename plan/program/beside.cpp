#include "plan/program/beside.h"

#include <algorithm>

#include "plan/program/program.h"

namespace rehearse {
namespace {

// A pair of layers with experts: the second all-to-all of each kind has one behind it.
Program pair_of_layers() {
  return Program::build(
      {.layout = {.dp = 2, .ep = 2, .layers_per_stage = {2}}, .mode = Mode::kPair});
}

}  // namespace

std::vector<OpName> ops_beside(OpName exchange) {
  static const Program pair = pair_of_layers();
  const auto lane = pair.lane(0, Lane::kAllToAll);
  const auto at = std::find_if(lane.begin(), lane.end(), [&](int32_t id) {
    return OpName{pair.op(id).kind, pair.op(id).pass} == exchange;
  });
  CHECK(at != lane.end() && at + 1 != lane.end()) << to_string(exchange) << " is not in a pair";
  const auto awaited = pair.dependencies(at[1]);
  std::vector<OpName> ops;
  for (const int32_t id : pair.lane(0, Lane::kCompute)) {
    if (id < *at) continue;
    ops.emplace_back(pair.op(id).kind, pair.op(id).pass);
    if (std::find(awaited.begin(), awaited.end(), id) != awaited.end()) break;
  }
  return ops;
}

OpTasks tasks_beside(const OpWork& work, OpName exchange, const MemberLoad& load) {
  OpTasks tasks;
  for (const OpName& op : ops_beside(exchange)) tasks.emplace_back(op, work.layer_tasks(op, load));
  return tasks;
}

}  // namespace rehearse
