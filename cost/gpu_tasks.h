#pragma once
// What each op of a training step costs a GPU: matrix products one by one, the rest summed up by
// kind of work.
// Sources: DeepSeek-V3 technical report, sections 3.2.3 (what is recomputed) and 3.3 (what is FP8);
// its published DualPipe profile for which casts, copies and transposes stand in which op;
// Korthikanti et al. 2022 (arXiv 2205.05198) for what is kept and how it is shared out.

#include <vector>

#include "base/names.h"
#include "cost/gpu_work.h"
#include "cost/op_kernels.h"
#include "cost/precision.h"

namespace rehearse {

// How the core of attention is computed.
enum class CoreKind : uint8_t {
  kFused,    // scores stay on chip
  kUnfused,  // scores go through memory, all of the square, and stay there for backward
};

inline constexpr NameTable kCoreKinds{
    std::to_array<Named<CoreKind>>({{CoreKind::kFused, "fused"}, {CoreKind::kUnfused, "unfused"}})};
static_assert(kCoreKinds.complete());

struct GpuRecipe {
  Format format = Format::kFp8;  // of every Linear
  // Ranks that share one sequence in attention, each with its part of the queries; they gather the
  // keys and values of all.
  int64_t context_parallel = 1;
  // Ranks that share matrices (cost/layer.h, Shards). With sequence parallelism each has its part
  // of the tokens between matrices; without it all have all of them.
  int64_t tensor_parallel = 1;
  bool sequence_parallel = true;
  // Keys and values are passed round while the core works: what stands before it is an op of its
  // own, qkv.
  bool ring = false;
  CoreKind core = CoreKind::kFused;
  // Tokens travel as a row for each expert (Dispatcher::kAllToAll): put in order by expert before
  // they leave and once more where they arrive, and back again (Megatron-Core's dispatcher).
  bool rows_travel = false;
  Recompute recompute;
};

// The tasks of an op that computes inside a cell, products in the order in which they run; of an
// all-to-all what goes before its data. `op` as for op_kernels; op.length is the whole sequence, of
// which this rank has one part of context_parallel.
std::vector<GpuTask> gpu_tasks(const Layers& layers, const OpShape& op, const GpuRecipe& recipe);

// Bytes that a layer on a GPU keeps for backward, of one token each: those of its rank's own part
// of the tokens (sequence parallelism), and those of all tensor-parallel ranks' tokens, of which it
// has its part of the width. Rows of experts are counted as if every token went to as many ranks as
// it has experts, loads being balanced.
struct KeptBytes {
  double own = 0, gathered = 0;
  double rows = 0;  // of `own`: what grows with the rows that experts get
};
// length: of the sequence.
KeptBytes kept_bytes(const Layers& layers,
                     bool moe,
                     bool windowed,
                     int64_t length,
                     const PrecisionBytes& precision,
                     const GpuRecipe& recipe);
// Bytes of one token that live within a layer's backward alone: gradients of the FFN's inputs and
// of its activation, or of attention's projections, whichever are more; in BF16.
KeptBytes passing_bytes(const Layers& layers, bool moe, bool windowed);

}  // namespace rehearse
