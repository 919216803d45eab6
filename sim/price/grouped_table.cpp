#include "sim/price/grouped_table.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/errors.h"

namespace rehearse {
namespace {

// Of one rank: rows, where experts are chosen alike; its experts; their width on it.
struct OfRank {
  double rows, experts, width;
};
OfRank of_rank(const GroupedCall& c) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  return {d(c.tokens * c.top_k) / d(c.ep), d(c.experts) / d(c.ep), d(c.intermediate) / d(c.tp)};
}

// Near only to themselves: implementations differ more than cards.
float code_of(const GroupedCall& c) {
  constexpr size_t kCodes = 997;
  return static_cast<float>(std::hash<std::string>{}(c.kernel) % kCodes) +
         (c.format == Format::kFp8 ? 0.5F : 0.0F);
}

}  // namespace

GroupedTable::GroupedTable(std::vector<MeasuredGrouped> rows, const GpuPeaks& peaks)
    : rows_(std::move(rows)), peaks_(peaks) {
  CHECK(!rows_.empty()) << "a table of no experts";
  for (const MeasuredGrouped& r : rows_) factors_.add(point(r.call), r.time / ideal(r.call));
}

// Some kernels' starts; products and what they move, of which most hides behind the other.
Duration GroupedTable::ideal(const GroupedCall& c) const {
  const OfRank r = of_rank(c);
  const auto hidden = static_cast<double>(c.hidden);
  const double matrices = c.gated ? 3 : 2;
  const double element = c.format == Format::kFp8 ? 1 : 2;
  const double arithmetic = 2 * r.rows * hidden * r.width * matrices /
                            (c.format == Format::kFp8 ? peaks_.fp8 : peaks_.bf16).value();
  const double traffic = (std::min(r.experts, r.rows) * matrices * hidden * r.width * element +
                          r.rows * (8 * hidden + 2 * matrices * r.width) +
                          4 * hidden * static_cast<double>(c.tokens) / static_cast<double>(c.ep)) /
                         peaks_.memory.value();
  constexpr double kStarts = 15e-6, kNotHidden = 0.3;
  return Duration::seconds(kStarts + std::max(arithmetic, traffic) +
                           kNotHidden * std::min(arithmetic, traffic));
}

ShapePoint GroupedTable::point(const GroupedCall& c) const {
  const OfRank r = of_rank(c);
  ShapePoint p{};
  size_t i = 0;
  const auto add = [&](double weight, double value) {
    p[i++] = static_cast<float>(weight * value);
  };
  add(0.7, std::log2(r.rows));
  add(0.7, std::log2(r.rows / r.experts));
  add(0.5, std::log2(r.experts));
  add(0.7, std::log2(r.width));
  add(0.7, std::log2(static_cast<double>(c.hidden)));
  add(0.3, std::log2(static_cast<double>(c.top_k)));
  add(4, c.skew);
  add(20, code_of(c));
  add(3, c.gated ? 1 : 0);
  add(0.4, std::log2(static_cast<double>(c.ep)));
  return p;
}

Duration GroupedTable::time(const GroupedCall& call) const {
  return Duration::seconds(ideal(call).seconds() * factors_.told(point(call)));
}

TableErrors GroupedTable::judge(Format format, Duration shortest) const {
  std::vector<JudgedRow> judged;
  for (const MeasuredGrouped& r : rows_) {
    const GroupedCall& c = r.call;
    const auto model = static_cast<uint64_t>(
        ((c.hidden * 100'003 + c.intermediate) * 1009 + c.top_k) * 1013 + c.experts);
    judged.push_back({model, c.format == format ? r.time : Duration()});
  }
  constexpr uint64_t kFolds = 1009;  // each model by itself
  return leave_out_families(
      judged,
      shortest,
      [&](size_t i, const NearestFactors::LeftOut& left_out) {
        const GroupedCall& c = rows_[i].call;
        return Duration::seconds(ideal(c).seconds() * factors_.told(point(c), left_out));
      },
      kFolds);
}

TableErrors GroupedTable::judge(Format format,
                                Duration shortest,
                                const std::vector<MeasuredGrouped>& rows) const {
  std::vector<double> errors;
  for (const MeasuredGrouped& r : rows) {
    if (r.call.format == format && r.time >= shortest) {
      errors.push_back(time(r.call) / r.time - 1);
    }
  }
  return errors_of(std::move(errors));
}

}  // namespace rehearse
