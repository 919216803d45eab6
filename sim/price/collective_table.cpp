#include "sim/price/collective_table.h"

#include <algorithm>
#include <cmath>

namespace rehearse {
namespace {

double log_size(const CollectiveCall& c) {
  return std::log2(static_cast<double>(std::max<int64_t>(1, c.size.count())));
}

ShapePoint collective_point(const CollectiveCall& c) {
  PointBuilder p;
  p.add(1, log_size(c));
  p.add(1, std::log2(static_cast<double>(c.ranks)));
  for (const auto& kind : kCollectiveKinds.entries()) p.add(3, kind.value == c.kind ? 1 : 0);
  return p.point();
}

}  // namespace

double sent_bytes(const CollectiveCall& c) {
  const auto n = static_cast<double>(c.ranks);
  return static_cast<double>(c.size.count()) * (n - 1) / n *
         (c.kind == CollectiveKind::kAllReduce ? 2 : 1);
}

// Ideally a start, and the bytes over the link.
CollectiveTable::CollectiveTable(Rows rows, BytesPerSecond link)
    : NearestTable(std::move(rows),
                   {.ideal =
                        [=](const CollectiveCall& c) {
                          constexpr double kStart = 6e-6;
                          return Duration::seconds(kStart + sent_bytes(c) / link.value());
                        },
                    .point = collective_point,
                    .family =
                        [](const CollectiveCall& c) {
                          return static_cast<uint64_t>(std::llround(4 * log_size(c)));
                        },
                    .folds = 8}) {
  for (const auto& r : this->rows()) most_ranks_ = std::max(most_ranks_, r.call.ranks);
}

}  // namespace rehearse
