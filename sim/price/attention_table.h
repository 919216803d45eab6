#pragma once
// Times of attention's core on a GPU, forward and causal in BF16, told from a table of measured
// ones: near are those of like sequences, heads, widths and windows that fill the device alike.

#include "cost/gpu_work.h"
#include "sim/price/nearest.h"

namespace rehearse {

// Families are of heads and key-value heads.
class AttentionTable : public NearestTable<AttentionShape> {
 public:
  // REQUIRES: some rows, all of one kernel.
  AttentionTable(Rows rows, const GpuPeaks& peaks, int64_t sms);
};

// 2 (qk + v) for each pair of positions that one sees of the other, of each head.
double attention_flops(const AttentionShape& shape);

}  // namespace rehearse
