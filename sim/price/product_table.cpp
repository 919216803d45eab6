#include "sim/price/product_table.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "base/integers.h"

namespace rehearse {

ProductTable::ProductTable(std::vector<MeasuredProduct> products,
                           Format format,
                           const GpuPeaks& peaks,
                           int64_t sms)
    : products_(std::move(products)), format_(format), peaks_(peaks), sms_(sms) {
  CHECK(!products_.empty()) << "a table of no products";
  for (const MeasuredProduct& p : products_) {
    factors_.add(point(p.m, p.n, p.k), p.time / ideal(p.m, p.n, p.k));
    measured_.emplace(std::array{p.m, p.n, p.k}, p.time);
  }
}

// Bytes are hidden behind arithmetic, or the other way round, but for a fifth; a kernel begins and
// ends in some microseconds.
Duration ProductTable::ideal(int64_t m, int64_t n, int64_t k) const {
  const GpuTask task = product_task(Family::kDense, format_, 1, m, n, k);
  const double arithmetic =
      (task.flops / (format_ == Format::kFp8 ? peaks_.fp8 : peaks_.bf16)).seconds();
  const double traffic = (task.bytes / peaks_.memory).seconds();
  constexpr double kNotHidden = 0.2, kEnds = 3e-6;
  return Duration::seconds(std::max(arithmetic, traffic) +
                           kNotHidden * std::min(arithmetic, traffic) + kEnds);
}

ShapePoint ProductTable::point(int64_t m, int64_t n, int64_t k) const {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  struct Tile {
    int64_t m, n;
  };
  constexpr std::array<Tile, 4> kTiles = {{{128, 256}, {128, 128}, {256, 128}, {64, 256}}};
  ShapePoint p{};
  size_t i = 0;
  const auto add = [&](double weight, double value) {
    p[i++] = static_cast<float>(weight * value);
  };
  add(1.5, std::log2(d(m)));
  add(1, std::log2(d(n)));
  add(0.7, std::log2(d(k)));
  add(4, m % 8 == 0 ? 0 : 1);  // rows that vectors of eight do not fill
  for (const Tile& t : kTiles) {
    add(5, fullness(d(ceil_div(m, t.m) * ceil_div(n, t.n)), d(sms_)));
  }
  add(3, fullness(d(m), 128));
  add(3, fullness(d(n), 256));
  return p;
}

Duration ProductTable::time(int64_t m, int64_t n, int64_t k) const {
  if (const auto found = measured_.find({m, n, k}); found != measured_.end()) return found->second;
  return Duration::seconds(ideal(m, n, k).seconds() * factors_.told(point(m, n, k)));
}

TableErrors ProductTable::judge(Duration shortest) const {
  std::vector<JudgedRow> rows;
  for (const MeasuredProduct& p : products_) {
    rows.push_back({static_cast<uint64_t>(p.n) << 32 | static_cast<uint64_t>(p.k), p.time});
  }
  return leave_out_families(rows, shortest, [&](size_t i, const NearestFactors::LeftOut& left_out) {
    const MeasuredProduct& p = products_[i];
    return Duration::seconds(ideal(p.m, p.n, p.k).seconds() *
                             factors_.told(point(p.m, p.n, p.k), left_out));
  });
}

TableErrors ProductTable::judge(Duration shortest,
                                const std::vector<MeasuredProduct>& products) const {
  std::vector<double> errors;
  for (const MeasuredProduct& p : products) {
    if (p.time >= shortest) errors.push_back(time(p.m, p.n, p.k) / p.time - 1);
  }
  return errors_of(std::move(errors));
}

}  // namespace rehearse
