#pragma once
// The work of each op of a training step as calls of this project's kernels: the runtime makes
// these calls, calibration times them, the simulator adds them up. Not listed is what moves a few
// integers per token (who chose which expert); sums of a token's rows are listed at their mean
// number of rows.
// Source for the split into ops: DeepSeek-V3 technical report, section 3.2.1; its published profile
// for what stands in which op (the routing weight is applied inside SwiGLU, before combine).

#include <optional>
#include <span>
#include <vector>

#include "cost/kernel_call.h"
#include "cost/layer.h"
#include "cost/op_kind.h"
#include "cost/recompute.h"

namespace rehearse {

// Tokens that one rank handles in a dispatch-shaped exchange, counted once per message; a
// combine-shaped one handles them backwards.
struct ExchangeTokens {
  int64_t sent = 0;  // of its own, to each node (its own among them) that has an expert of theirs
  int64_t received = 0;   // from ranks of its position, on whichever node
  int64_t forwarded = 0;  // of those, to each rank of its node that has an expert of theirs
  int64_t arrived = 0;    // that have an expert on this rank
  bool operator==(const ExchangeTokens&) const = default;
};

struct OpShape {
  OpKind kind = OpKind::kAttn;
  Pass pass = Pass::kForward;
  bool moe = false;       // the layer has experts
  bool windowed = false;  // its attention a window
  int64_t sequences = 0;  // of the micro-batch
  int64_t length = 0;     // tokens per sequence
  // Rows that each of this rank's experts computes (mlp, dispatch and combine of a MoE layer).
  std::span<const int64_t> expert_rows;
  // Tokens on their way through this rank, when experts stand on several (dispatch and combine).
  std::optional<ExchangeTokens> exchange;
};

// The calls of an op in the order of execution; none for ops that only communicate.
struct OpCalls {
  std::vector<KernelCall> pack;     // that make its messages, before anything is sent
  std::vector<KernelCall> forward;  // between the two phases of an all-to-all
  std::vector<KernelCall> work;     // on what has arrived; all calls of ops that do not communicate

  std::vector<KernelCall> all() const;
};
// again: of what the runtime computes again (whole layers and the core it does not).
OpCalls op_kernels(const Layers& layers, const OpShape& op, const Recompute& again);

}  // namespace rehearse
