#pragma once
// Times of attention's core on a GPU, forward and causal in BF16, told from a table of measured
// ones: near are those of like sequences, heads, widths and windows that fill the device alike.

#include <cstdint>
#include <vector>

#include "cost/gpu_work.h"
#include "sim/price/nearest.h"

namespace rehearse {

struct AttentionShape {
  int64_t batch = 0;                // sequences
  int64_t sequence = 0;             // tokens of each
  int64_t heads = 0, kv_heads = 0;  // of the rank
  int64_t qk = 0, v = 0;            // widths per head
  int64_t window = 0;               // keys that a query sees, itself counted; 0: all before it
  auto operator<=>(const AttentionShape&) const = default;
};
struct MeasuredAttention {
  AttentionShape shape;
  Duration time;
};

class AttentionTable {
 public:
  // REQUIRES: some rows, all of one kernel.
  AttentionTable(std::vector<MeasuredAttention> rows, const GpuPeaks& peaks, int64_t sms);

  // As measured, where the shape is in the table; else told.
  Duration time(const AttentionShape& shape) const;
  // Of rows that take at least `shortest`, numbers of heads and key-value heads left out.
  TableErrors judge(Duration shortest) const;

 private:
  ShapePoint point(const AttentionShape& s) const;
  Duration ideal(const AttentionShape& s) const;

  std::vector<MeasuredAttention> rows_;
  GpuPeaks peaks_;
  int64_t sms_;
  NearestFactors factors_;
};

}  // namespace rehearse
