#pragma once
// Which kernels each op of a training step calls, at which shapes. The runtime does exactly this
// work, calibration times exactly these calls, the simulator adds them up.
// Source for the split into ops: DeepSeek-V3 technical report, section 3.2.1; its published profile
// for what stands in which op (the routing weight is applied inside SwiGLU, before combine).

#include <optional>
#include <span>
#include <vector>

#include "cost/architecture.h"
#include "cost/kernel_call.h"

namespace rehearse {

// What an op does. attn, mlp, dispatch and combine exist per layer with three passes; the others
// once per micro-batch (embed, head, mtp, send, recv) or per step.
enum class OpKind : uint8_t {
  kAttn,         // norms, MLA, residual, gate
  kMlp,          // dense FFN, or shared and routed experts
  kDispatch,     // tokens to their experts (B: the reduction of their gradients back)
  kCombine,      // expert outputs back to tokens (B: output gradients to experts)
  kEmbed,        // token embedding
  kHead,         // final norm, output projection, loss
  kMtp,          // the projection that enters a multi-token-prediction module
  kSend,         // to the neighbouring pipeline stage
  kRecv,         // from it
  kCell,         // a whole cell, in Programs of chunk granularity
  kGradReduce,   // gradients summed over a stage's replicas
  kGradNorm,     // the global norm, for clipping
  kOptimizer,    // AdamW on this rank's shard
  kParamGather,  // updated weights back to every replica
  kBiasUpdate,   // expert biases from the whole batch's expert load
};

enum class Pass : uint8_t {
  kNone,
  kForward,
  kInput,   // backward for inputs ("B" in op names: attn.B)
  kWeight,  // backward for weights
};

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
OpCalls op_kernels(const Architecture& a, const OpShape& op);

// Forward flops of one token in `layer` at sequences of `length` tokens: matrix products and
// attention alone. causal: attention over the (n+1)/2 keys a token sees on average, else all n.
Flops layer_forward_flops(const Architecture& a, int64_t layer, int64_t length, bool causal);

// Flops of one token's training step, layers and head, no MTP, no recomputation: three times the
// forward pass.
Flops training_flops_per_token(const Architecture& a, int64_t length, bool causal);

}  // namespace rehearse
