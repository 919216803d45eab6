#pragma once
// The kinds of op a training step is made of, and their passes.
// Source for the split into ops: DeepSeek-V3 technical report, section 3.2.1.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace rehearse {

// What an op does. attn, mlp, dispatch and combine exist per layer with three passes; the others
// once per micro-batch (embed, head, mtp, send, recv) or per step. Where ranks share matrices or a
// sequence, collectives stand before and behind the ops whose work they share (Op::of).
enum class OpKind : uint8_t {
  kAttn,         // norms, attention, residual, gate
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
  kGather,       // of what an op reads, from the ranks that share it (B: its gradients' sum, back)
  kScatter,      // an op's partial results summed, a part to each rank (B: gradients gathered)
  kRing,         // keys and values passed round while attention works on what has come
  kQkv,  // what of attention stands before that: norms, projections of queries, keys, values
};

enum class Pass : uint8_t {
  kNone,
  kForward,
  kInput,   // backward for inputs ("B" in op names: attn.B)
  kWeight,  // backward for weights
  kAgain,   // forward once more, in backward, of what was not kept
};
// The pass whose work it is: forward, of kAgain.
constexpr Pass work_of(Pass pass) {
  return pass == Pass::kAgain ? Pass::kForward : pass;
}

// How many there are, for tables by kind and pass.
extern const size_t kOpKinds, kPasses;

std::string_view name_of(OpKind kind);
std::string_view name_of(Pass pass);  // "", "F", "B", "W", "R"
std::optional<OpKind> op_kind_named(std::string_view name);
std::optional<Pass> pass_named(std::string_view name);

// What an op is called without its place: attn.F, mlp.W, dispatch.B; without a pass: optimizer.
using OpName = std::pair<OpKind, Pass>;
std::string to_string(OpName name);
std::optional<OpName> op_named(std::string_view name);  // with its pass

// Whether the op does arithmetic inside a cell (attn, qkv, mlp, embed, head, mtp, a whole cell).
bool is_cell_compute(OpKind kind);
// gather, scatter or ring: of ranks of a stage, within cells.
bool is_shared_work(OpKind kind);
// dispatch or combine.
bool is_all_to_all(OpKind kind);
// Of an all-to-all: whether it sends tokens to experts (dispatch.F, and combine.B, the gradient of
// combine), the others bringing them back.
bool is_dispatch_shaped(OpKind kind, Pass pass);
// grad_reduce or param_gather: each member passes shards on to the next.
bool is_ring(OpKind kind);

}  // namespace rehearse
