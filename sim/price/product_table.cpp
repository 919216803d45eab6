#include "sim/price/product_table.h"

#include <algorithm>
#include <cmath>

#include "base/integers.h"

namespace rehearse {
namespace {

// Bytes are hidden behind arithmetic, or the other way round, but for a fifth; a kernel begins and
// ends in some microseconds.
Duration ideal_product(const ProductCall& p, Format format, const GpuPeaks& peaks) {
  const GpuTask task = product_task(Family::kDense, format, 1, p.m, p.n, p.k);
  const double arithmetic =
      (task.flops / (format == Format::kFp8 ? peaks.fp8 : peaks.bf16)).seconds();
  const double traffic = (task.bytes / peaks.memory).seconds();
  constexpr double kEnds = 3e-6;
  return Duration::seconds(std::max(arithmetic, traffic) +
                           kTrafficNotHidden * std::min(arithmetic, traffic) + kEnds);
}

ShapePoint product_point(const ProductCall& call, int64_t sms) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  struct Tile {
    int64_t m, n;
  };
  constexpr std::array<Tile, 4> kTiles = {{{128, 256}, {128, 128}, {256, 128}, {64, 256}}};
  PointBuilder p;
  p.add(1.5, std::log2(d(call.m)));
  p.add(1, std::log2(d(call.n)));
  p.add(0.7, std::log2(d(call.k)));
  p.add(4, call.m % 8 == 0 ? 0 : 1);  // rows that vectors of eight do not fill
  for (const Tile& t : kTiles) {
    p.add(5, fullness(d(ceil_div(call.m, t.m) * ceil_div(call.n, t.n)), d(sms)));
  }
  p.add(3, fullness(d(call.m), 128));
  p.add(3, fullness(d(call.n), 256));
  return p.point();
}

}  // namespace

ProductTable::ProductTable(Rows rows, Format format, const GpuPeaks& peaks, int64_t sms)
    : NearestTable(std::move(rows),
                   {.ideal = [=](const ProductCall& p) { return ideal_product(p, format, peaks); },
                    .point = [=](const ProductCall& p) { return product_point(p, sms); },
                    .family =
                        [](const ProductCall& p) {
                          return static_cast<uint64_t>(p.n) << 32 | static_cast<uint64_t>(p.k);
                        },
                    .folds = 8}) {}

}  // namespace rehearse
