#pragma once
// Times of dispatch and combine over NVLink, by the SMs that copy, told from a table of measured
// ones: tokens to the ranks of their experts on one node, each once to each rank.

#include "sim/price/nearest.h"

namespace rehearse {

struct ExchangeCall {
  bool dispatch = true;  // in FP8 with a scale for every 128 values; combine: in BF16
  int64_t hidden = 0, tokens = 0, top_k = 0, experts = 0;  // tokens: of each rank
  int64_t sms = 0;
  auto operator<=>(const ExchangeCall&) const = default;
};

// Families are of SMs.
class ExchangeTable : public NearestTable<ExchangeCall> {
 public:
  // REQUIRES: some rows.
  explicit ExchangeTable(Rows rows);
  // What one SM copies per second, of large messages where links have room; 0: no such row.
  BytesPerSecond per_sm() const;
};

}  // namespace rehearse
