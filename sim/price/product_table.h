#pragma once
// Times of matrix products on a GPU told from a table of measured ones. Which shapes are like is as
// much a matter of how their tiles fill the device as of their size: products are cut into tiles,
// tiles go to SMs in waves, and a wave that is half empty takes as long as a full one. So products
// are near where the logarithms of m, n and k are, and how full the waves of common tiles.

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "cost/gpu_work.h"
#include "sim/price/nearest.h"

namespace rehearse {

// y[m,n] = x[m,k] w[n,k]^T, its operands' quantisation not counted.
struct MeasuredProduct {
  int64_t m = 0, n = 0, k = 0;
  Duration time;
};

class ProductTable {
 public:
  // sms: of the device. REQUIRES: some products.
  ProductTable(std::vector<MeasuredProduct> products,
               Format format,
               const GpuPeaks& peaks,
               int64_t sms);

  // As measured, where the shape is in the table; else told.
  Duration time(int64_t m, int64_t n, int64_t k) const;
  bool holds(int64_t m, int64_t n, int64_t k) const { return measured_.contains({m, n, k}); }
  size_t rows() const { return products_.size(); }
  // Of products that take at least `shortest`, families of n and k left out.
  TableErrors judge(Duration shortest) const;
  // Rows of another table, told from all of this one.
  TableErrors judge(Duration shortest, const std::vector<MeasuredProduct>& products) const;

 private:
  ShapePoint point(int64_t m, int64_t n, int64_t k) const;
  Duration ideal(int64_t m, int64_t n, int64_t k) const;

  std::vector<MeasuredProduct> products_;
  Format format_;
  GpuPeaks peaks_;
  int64_t sms_;
  NearestFactors factors_;
  std::map<std::array<int64_t, 3>, Duration> measured_;
};

}  // namespace rehearse
