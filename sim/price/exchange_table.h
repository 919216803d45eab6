#pragma once
// Times of dispatch and combine over NVLink, by the SMs that copy, told from a table of measured
// ones: tokens to the ranks of their experts on one node, each once to each rank.

#include <cstdint>
#include <vector>

#include "sim/price/nearest.h"

namespace rehearse {

struct ExchangeCall {
  bool dispatch = true;  // in FP8 with a scale for every 128 values; combine: in BF16
  int64_t hidden = 0, tokens = 0, top_k = 0, experts = 0;  // tokens: of each rank
  int64_t sms = 0;
};
struct MeasuredExchange {
  ExchangeCall call;
  Duration time;
};

class ExchangeTable {
 public:
  // REQUIRES: some, of dispatch and of combine.
  explicit ExchangeTable(std::vector<MeasuredExchange> rows);

  Duration time(const ExchangeCall& call) const;
  // What one SM copies per second, of large messages where links have room.
  BytesPerSecond per_sm() const;
  // Of rows that take at least `shortest`, numbers of SMs left out.
  TableErrors judge(bool dispatch, Duration shortest) const;
  TableErrors judge(bool dispatch,
                    Duration shortest,
                    const std::vector<MeasuredExchange>& rows) const;

 private:
  std::vector<MeasuredExchange> rows_;
  NearestFactors factors_;
};

}  // namespace rehearse
