#pragma once
// Which kernels each op of a training step calls, at which shapes. The runtime does exactly this
// work, calibration times exactly these calls, the simulator adds them up.
// Source for the split into ops: DeepSeek-V3 technical report, section 3.2.1; its published profile
// for what stands in which op (the routing weight is applied inside SwiGLU, before combine).

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

struct OpShape {
  OpKind kind = OpKind::kAttn;
  Pass pass = Pass::kForward;
  bool moe = false;       // the layer has experts
  int64_t sequences = 0;  // of the micro-batch
  int64_t length = 0;     // tokens per sequence
  // Rows that each of this rank's experts computes (mlp of a MoE layer).
  std::span<const int64_t> expert_rows;
  int64_t sent_rows = 0;  // rows this rank gathers for dispatch, tokens x top-k when EP is 1
};

// The calls in the order of execution. Empty for ops that only communicate.
std::vector<KernelCall> op_kernels(const Architecture& a, const OpShape& op);

// Forward flops of one token in `layer` at sequences of `length` tokens: matrix products and
// attention alone. causal: attention over the (n+1)/2 keys a token sees on average, else all n.
Flops layer_forward_flops(const Architecture& a, int64_t layer, int64_t length, bool causal);

// Flops of one token's training step, layers and head, no MTP, no recomputation: three times the
// forward pass.
Flops training_flops_per_token(const Architecture& a, int64_t length, bool causal);

}  // namespace rehearse
