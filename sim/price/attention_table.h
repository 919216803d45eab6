#pragma once
// Times of attention's core on a GPU, forward and causal in BF16, told from a table of measured
// ones: near are those of like sequences, heads, widths and windows that fill the device alike.

#include <cstdint>
#include <map>
#include <vector>

#include "cost/gpu_work.h"
#include "sim/price/nearest.h"

namespace rehearse {

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
  bool holds(const AttentionShape& shape) const { return measured_.contains(shape); }
  size_t rows() const { return rows_.size(); }
  // Of rows that take at least `shortest`, numbers of heads and key-value heads left out.
  TableErrors judge(Duration shortest) const;
  // Rows of another table, told from all of this one.
  TableErrors judge(Duration shortest, const std::vector<MeasuredAttention>& rows) const;

 private:
  ShapePoint point(const AttentionShape& s) const;
  Duration ideal(const AttentionShape& s) const;

  std::vector<MeasuredAttention> rows_;
  GpuPeaks peaks_;
  int64_t sms_;
  NearestFactors factors_;
  std::map<AttentionShape, Duration> measured_;
};

}  // namespace rehearse
