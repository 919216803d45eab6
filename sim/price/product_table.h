#pragma once
// Times of matrix products on a GPU told from a table of measured ones.
//
// A product's time is its ideal time (flops at the peak, bytes at the memory's bandwidth) times a
// factor, and kernels of like shapes have like factors. Which shapes are like is as much a matter
// of how their tiles fill the device as of their size: products are cut into tiles, tiles go to SMs
// in waves, and a wave that is half empty takes as long as a full one. So the factor is that of the
// measured products nearest in the logarithms of m, n and k and in how full the waves of common
// tiles are, each weighted by the inverse square of its distance.

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "cost/gpu_work.h"

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
  // Told from those of the table's products that are not left out.
  using LeftOut = std::function<bool(const MeasuredProduct&)>;
  Duration told(int64_t m, int64_t n, int64_t k, const LeftOut& left_out) const;

  const std::vector<MeasuredProduct>& products() const { return products_; }

 private:
  static constexpr size_t kFeatures = 10;
  using Features = std::array<float, kFeatures>;
  Features features(int64_t m, int64_t n, int64_t k) const;
  double ideal(int64_t m, int64_t n, int64_t k) const;  // seconds

  std::vector<MeasuredProduct> products_;
  Format format_;
  GpuPeaks peaks_;
  int64_t sms_;
  std::vector<Features> features_;  // by product
  std::vector<double> factors_;     // logarithms
};

// How well a table tells its own products when whole families are left out: of those that take at
// least `shortest`, the relative errors, told over measured.
struct TableErrors {
  int64_t products = 0;
  double mean_absolute = 0, percentile_95 = 0, bias = 0;
};
// A family is a pair of n and k; each is left out once, with `folds` - 1 others' share of the rest.
TableErrors leave_out_families(const ProductTable& table, Duration shortest, int64_t folds = 8);

}  // namespace rehearse
