#pragma once
// How a collective of ranks on several nodes runs: what each rank sends over which links.

#include "plan/cluster.h"

namespace rehearse {

// How a collective of `nodes` x `per_node` ranks runs: NCCL's choice by predicted time among a ring
// over all ranks, a tree over nodes, and a ring per position across nodes within a ring inside
// each (hierarchical).
struct CollectivePlan {
  enum class Algorithm : uint8_t { kRing, kTree, kHierarchical } algorithm = Algorithm::kRing;
  Bytes network;     // that every rank sends to another node
  Bytes node;        // and within its own
  Duration latency;  // of all steps, one after the other
};
// bytes: that every rank of one ring over all ranks would send in all. reduce_all: the result goes
// to every rank (all-reduce), which a tree can do; reduce-scatter and all-gather cannot.
CollectivePlan plan_collective(
    const Cluster& cluster, int64_t nodes, int64_t per_node, Bytes bytes, bool reduce_all);

}  // namespace rehearse
