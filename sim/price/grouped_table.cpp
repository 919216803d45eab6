#include "sim/price/grouped_table.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace rehearse {
namespace {

// Of one rank: rows, where experts are chosen alike; its experts; their width on it.
struct OfRank {
  double rows, experts, width, hidden, matrices;
};
OfRank of_rank(const GroupedCall& c) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  return {.rows = d(c.tokens * c.top_k) / d(c.ep),
          .experts = d(c.experts) / d(c.ep),
          .width = d(c.intermediate) / d(c.tp),
          .hidden = d(c.hidden),
          .matrices = c.gated ? 3.0 : 2.0};
}

// Some kernels' starts; products and what they move, of which most hides behind the other.
Duration ideal_grouped(const GroupedCall& c, const GpuPeaks& peaks) {
  const OfRank r = of_rank(c);
  const bool fp8 = c.format == Format::kFp8;
  const double arithmetic = expert_flops(c) / (fp8 ? peaks.fp8 : peaks.bf16).value();
  const double traffic =
      (std::min(r.experts, r.rows) * r.matrices * r.hidden * r.width * (fp8 ? 1 : 2) +
       r.rows * (8 * r.hidden + 2 * r.matrices * r.width) +
       4 * r.hidden * static_cast<double>(c.tokens) / static_cast<double>(c.ep)) /
      peaks.memory.value();
  constexpr double kStarts = 15e-6, kNotHidden = 0.3;
  return Duration::seconds(kStarts + std::max(arithmetic, traffic) +
                           kNotHidden * std::min(arithmetic, traffic));
}

// Near only to themselves: implementations differ more than cards.
double code_of(const GroupedCall& c) {
  constexpr size_t kCodes = 997;
  return static_cast<double>(std::hash<std::string>{}(c.kernel) % kCodes) +
         (c.format == Format::kFp8 ? 0.5 : 0);
}

ShapePoint grouped_point(const GroupedCall& c) {
  const OfRank r = of_rank(c);
  PointBuilder p;
  p.add(0.7, std::log2(r.rows));
  p.add(0.7, std::log2(r.rows / r.experts));
  p.add(0.5, std::log2(r.experts));
  p.add(0.7, std::log2(r.width));
  p.add(0.7, std::log2(r.hidden));
  p.add(0.3, std::log2(static_cast<double>(c.top_k)));
  p.add(4, c.skew);
  p.add(20, code_of(c));
  p.add(3, c.gated ? 1 : 0);
  p.add(0.4, std::log2(static_cast<double>(c.ep)));
  return p.point();
}

uint64_t model_of(const GroupedCall& c) {
  return static_cast<uint64_t>(((c.hidden * 100'003 + c.intermediate) * 1009 + c.top_k) * 1013 +
                               c.experts);
}

}  // namespace

double expert_flops(const GroupedCall& c) {
  const OfRank r = of_rank(c);
  return 2 * r.rows * r.hidden * r.width * r.matrices;
}

GroupedTable::GroupedTable(Rows rows, const GpuPeaks& peaks)
    : NearestTable(std::move(rows),
                   {.ideal = [=](const GroupedCall& c) { return ideal_grouped(c, peaks); },
                    .point = grouped_point,
                    .family = model_of}) {}

}  // namespace rehearse
