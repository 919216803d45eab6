#pragma once
// Times of matrix products on a GPU told from a table of measured ones. Which shapes are like is as
// much a matter of how their tiles fill the device as of their size: products are cut into tiles,
// tiles go to SMs in waves, and a wave that is half empty takes as long as a full one. So products
// are near where the logarithms of m, n and k are, and how full the waves of common tiles.

#include "cost/gpu_work.h"
#include "sim/price/nearest.h"

namespace rehearse {

// y[m,n] = x[m,k] w[n,k]^T, its operands' quantisation not counted.
struct ProductCall {
  int64_t m = 0, n = 0, k = 0;
  auto operator<=>(const ProductCall&) const = default;
};

// Of what can hide behind something else, traffic behind arithmetic or the other way round, a fifth
// does not.
inline constexpr double kTrafficNotHidden = 0.2;

// Families are of n and k.
class ProductTable : public NearestTable<ProductCall> {
 public:
  // sms: of the device. REQUIRES: some rows.
  ProductTable(Rows rows, Format format, const GpuPeaks& peaks, int64_t sms);
};

}  // namespace rehearse
