#pragma once
// Routing counts: how many tokens go where, and how many rows each expert computes, per layer and
// micro-batch. They resolve the Program's symbolic sizes. Expert counts alone cannot give
// node-limited traffic, because a token's experts share nodes: hence three tensors.

#include <cstdint>
#include <span>
#include <vector>

#include "cost/op_kernels.h"
#include "plan/plan.h"
#include "plan/routing/placement.h"

namespace rehearse {

// Of one EP group; src is a member of it. They hold for one placement of experts.
struct RoutingCounts {
  std::vector<std::vector<int64_t>> to_node;  // [src][node] distinct tokens
  std::vector<std::vector<int64_t>> to_rank;  // [src][member] distinct tokens
  std::vector<std::vector<int64_t>> rows;     // [src][expert]

  // Rows of one expert over all sources.
  int64_t expert_rows(int64_t expert) const;
};

// choices[src]: [tokens, active] expert indices.
RoutingCounts count_routing(const ExpertGroup& group,
                            int64_t experts,
                            int64_t active,
                            const std::vector<std::span<const int32_t>>& choices);

// The experts of token `token` of a micro-batch when routing is forced to be balanced: every expert
// and every run of kept groups gets its turn. chosen: [active], within kept_groups groups.
void balanced_choice(const Architecture& a, int64_t token, std::span<int32_t> chosen);

// The counts of a micro-batch whose tokens all choose so.
RoutingCounts balanced_routing(const Plan& plan, const ExpertGroup& group);

// One transfer of an all-to-all op between two members of the group.
struct ExchangeFlow {
  int64_t from = 0, to = 0;  // members
  int64_t tokens = 0;
  bool operator==(const ExchangeFlow&) const = default;
};
// The flows of a dispatch-shaped op: across nodes to the same position, and within nodes, in the
// order of the dispatcher (ExpertGroup). A combine-shaped op runs them backwards. Transfers of
// nothing are left out.
struct ExchangeFlows {
  std::vector<ExchangeFlow> across, within;
};
ExchangeFlows exchange_flows(const ExpertGroup& group, const RoutingCounts& counts);

// What routing leaves for one member of an EP group to do in one layer and micro-batch.
struct MemberLoad {
  std::vector<int64_t> expert_rows;        // of each expert that it holds
  std::optional<ExchangeTokens> exchange;  // where it holds not all of them
  bool operator==(const MemberLoad&) const = default;
};
MemberLoad member_load(const ExpertGroup& group, const RoutingCounts& counts, int64_t member);

// The counts of one all-to-all, and what they mean for the members of its group.
struct GroupLoad {
  int64_t id = 0;  // equal ids, equal counts
  ExchangeFlows flows;
  std::vector<MemberLoad> members;
  // Whether every member sends, receives and computes the same, and all messages between nodes, and
  // all within them, are of one size: then no member is ever ahead of another.
  bool symmetric = false;
};
GroupLoad group_load(int64_t id, const ExpertGroup& group, const RoutingCounts& counts);

// Bytes of one token's message: dispatch.F carries the token, its weights and choices; combine.B
// (the gradient of combine) the token; combine.F and dispatch.B come back, the latter with the
// weights' gradients. FP32 training sends FP32, BF16 sends BF16; FP8 sends dispatch.F and combine.B
// as FP8 with a scale per 128 values and the others as BF16 (report, section 3.3.3). Of the
// dispatcher all_to_all, of one row: BF16 under FP8 too, with one weight; of all_gather BF16 too.
Bytes exchange_message(const Plan& plan, OpKind kind, Pass pass);

}  // namespace rehearse
