#pragma once
// Times of whole layers of experts on one GPU, forward, told from a table of measured ones: rows
// put in order, grouped products and the activation between them, rows summed up.

#include <string>

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
  auto operator<=>(const GroupedCall&) const = default;
};

// Families are of models.
class GroupedTable : public NearestTable<GroupedCall> {
 public:
  // REQUIRES: some rows.
  GroupedTable(Rows rows, const GpuPeaks& peaks);
};

// Of one rank, where experts are chosen alike.
double expert_flops(const GroupedCall& call);

}  // namespace rehearse
