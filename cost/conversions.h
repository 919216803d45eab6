#pragma once
// What this project's runtime converts around its kernels where operands are not FP32, in which
// kernels of cores compute.

#include "cost/layer.h"
#include "cost/op_kernels.h"

namespace rehearse {

// Adds them to an op's calls. formats: of BF16, or of FP8, whose linears take codes.
void add_conversions(const Layers& layers,
                     const OpShape& op,
                     const RuntimeFormats& formats,
                     OpCalls& calls);

}  // namespace rehearse
