#pragma once
// Times of whole layers of experts on one GPU, forward, told from a table of measured ones: rows
// put in order, grouped products and the activation between them, rows summed up.

#include <cstdint>
#include <string>
#include <vector>

#include "cost/gpu_work.h"
#include "sim/price/nearest.h"

namespace rehearse {

// What one rank computes of a layer with experts.
struct GroupedCall {
  std::string kernel;
  Format format = Format::kBf16;
  // Of all ranks together; `tokens` of the whole EP group.
  int64_t tokens = 0, hidden = 0, intermediate = 0, top_k = 0, experts = 0;
  int64_t tp = 1, ep = 1;  // ranks that share an expert's width, and the experts
  double skew = 0;         // exponent of the experts' popularity; the most loaded rank counts
  bool gated = true;       // three matrices, or two
};
struct MeasuredGrouped {
  GroupedCall call;
  Duration time;
};

class GroupedTable {
 public:
  // REQUIRES: some.
  GroupedTable(std::vector<MeasuredGrouped> rows, const GpuPeaks& peaks);

  Duration time(const GroupedCall& call) const;
  // Of rows in `format` that take at least `shortest`, whole models left out.
  TableErrors judge(Format format, Duration shortest) const;
  TableErrors judge(Format format,
                    Duration shortest,
                    const std::vector<MeasuredGrouped>& rows) const;

 private:
  ShapePoint point(const GroupedCall& c) const;
  Duration ideal(const GroupedCall& c) const;

  std::vector<MeasuredGrouped> rows_;
  GpuPeaks peaks_;
  NearestFactors factors_;
};

}  // namespace rehearse
