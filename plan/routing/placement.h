#pragma once
// Which rank holds which expert, and how a token reaches it. two_hop: to every node once, to the
// rank of the same in-node position, and from there to the ranks of that node (report, section
// 3.2.2). all_to_all: a row for each of its experts, over NVLink to the rank of its own node that
// has the expert's rank's position, and from there over the network (NCCL's PXN). all_gather: every
// token to every rank, as two_hop does.

#include <cstdint>
#include <vector>

#include "plan/plan.h"
#include "plan/routing/replicas.h"

namespace rehearse {

// The EP group of one rank, its members numbered from 0 in the order of ranks, spread over nodes.
struct ExpertGroup {
  // REQUIRES: every node of the group holds equally many of its members (plan/legal.h).
  ExpertGroup(const Plan& plan, int64_t pp_rank, int64_t data_rank);

  int64_t size = 1;
  int64_t nodes = 1;     // that the group stands on
  int64_t per_node = 1;  // members on each of them
  int64_t experts_per_member = 0;
  int64_t active_experts = 0;  // of a token
  Dispatcher dispatcher = Dispatcher::kTwoHop;
  int64_t me = 0;
  std::vector<int64_t> ranks;  // global rank of each member

  int64_t node_of(int64_t member) const { return member / per_node; }
  int64_t position_of(int64_t member) const { return member % per_node; }
  int64_t member(int64_t node, int64_t position) const { return node * per_node + position; }
  int64_t holder(int64_t expert) const { return expert / experts_per_member; }
  // Global ranks at my in-node position, one per node; and of my node, one per position.
  std::vector<int64_t> across_nodes() const;
  std::vector<int64_t> within_node() const;
};

// Of every layer with experts, MTP modules' with them or as the last one's, or one for all; empty
// where the plan places experts in order. Throws InputError for a file that is none, or has
// replicas: these are replayed, not trained.
std::vector<Placement> placements_of(const Plan& plan);
// Of the layer with experts that has so many such layers before it; null: in order.
const Placement* placement_of(const std::vector<Placement>& placements, int64_t place);

}  // namespace rehearse
