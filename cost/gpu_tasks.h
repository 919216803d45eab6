#pragma once
// What each op of a training step costs a GPU: matrix products one by one, the rest summed up by
// kind of work.
// Sources: DeepSeek-V3 technical report, sections 3.2.3 (what is recomputed) and 3.3 (what is FP8);
// its published DualPipe profile for which casts, copies and transposes stand in which op.

#include <vector>

#include "cost/gpu_work.h"
#include "cost/op_kernels.h"
#include "cost/precision.h"

namespace rehearse {

struct GpuRecipe {
  Format format = Format::kFp8;  // of every Linear
  // Ranks that share one sequence in attention, each with its part of the queries; they gather the
  // compressed keys and values of all.
  int64_t context_parallel = 1;
};

// The tasks of an op that computes inside a cell, products in the order in which they run; of an
// all-to-all what goes before its data. `op` as for op_kernels; op.length is the whole sequence, of
// which this rank has one part of context_parallel.
std::vector<GpuTask> gpu_tasks(const Layers& layers, const OpShape& op, const GpuRecipe& recipe);

// Bytes of one token that a layer on a GPU keeps for backward: RMSNorm, products that expand and
// SwiGLU are computed again (report, section 3.2.3). Rows of experts are counted as if every token
// went to as many ranks as it has experts.
double kept_bytes(const Layer& layer, int64_t hidden, const PrecisionBytes& precision);

}  // namespace rehearse
