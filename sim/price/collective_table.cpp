#include "sim/price/collective_table.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace rehearse {
namespace {

constexpr int64_t kShortest = 1 << 20;  // bytes of rows that are judged

}  // namespace

double sent_bytes(CollectiveKind kind, int64_t ranks, Bytes size) {
  const auto n = static_cast<double>(ranks);
  return static_cast<double>(size.count()) * (n - 1) / n *
         (kind == CollectiveKind::kAllReduce ? 2 : 1);
}

CollectiveTable::CollectiveTable(std::vector<MeasuredCollective> rows, BytesPerSecond link)
    : rows_(std::move(rows)), link_(link) {
  CHECK(!rows_.empty()) << "a table of no collectives";
  for (const MeasuredCollective& r : rows_) {
    factors_.add(point(r.kind, r.ranks, r.size), r.time / ideal(r.kind, r.ranks, r.size));
  }
}

// A start, and the bytes over the link.
Duration CollectiveTable::ideal(CollectiveKind kind, int64_t ranks, Bytes size) const {
  constexpr double kStart = 6e-6;
  return Duration::seconds(kStart + sent_bytes(kind, ranks, size) / link_.value());
}

ShapePoint CollectiveTable::point(CollectiveKind kind, int64_t ranks, Bytes size) const {
  constexpr float kOtherKind = 3;
  ShapePoint p{};
  p[0] = static_cast<float>(std::log2(static_cast<double>(size.count())));
  p[1] = static_cast<float>(std::log2(static_cast<double>(ranks)));
  p[2 + static_cast<size_t>(kind)] = kOtherKind;
  return p;
}

Duration CollectiveTable::time(CollectiveKind kind, int64_t ranks, Bytes size) const {
  const Bytes some = std::max(size, Bytes(1));
  return Duration::seconds(ideal(kind, ranks, some).seconds() *
                           factors_.told(point(kind, ranks, some)));
}

BytesPerSecond CollectiveTable::best(int64_t ranks) const {
  double most = 0;
  for (const MeasuredCollective& r : rows_) {
    if (r.ranks != ranks || r.kind == CollectiveKind::kAllReduce) continue;
    most = std::max(most, sent_bytes(r.kind, r.ranks, r.size) / r.time.seconds());
  }
  return BytesPerSecond(most);
}

int64_t CollectiveTable::most_ranks() const {
  int64_t most = 0;
  for (const MeasuredCollective& r : rows_) most = std::max(most, r.ranks);
  return most;
}

TableErrors CollectiveTable::judge() const {
  std::vector<JudgedRow> judged;
  for (const MeasuredCollective& r : rows_) {
    const bool large = r.size >= Bytes(kShortest);
    judged.push_back(
        {static_cast<uint64_t>(std::llround(4 * std::log2(static_cast<double>(r.size.count())))),
         large ? r.time : Duration()});
  }
  return leave_out_families(
      judged, Duration::picoseconds(1), [&](size_t i, const NearestFactors::LeftOut& left_out) {
        const MeasuredCollective& r = rows_[i];
        return Duration::seconds(ideal(r.kind, r.ranks, r.size).seconds() *
                                 factors_.told(point(r.kind, r.ranks, r.size), left_out));
      });
}

TableErrors CollectiveTable::judge(const std::vector<MeasuredCollective>& rows) const {
  std::vector<double> errors;
  for (const MeasuredCollective& r : rows) {
    if (r.size >= Bytes(kShortest)) errors.push_back(time(r.kind, r.ranks, r.size) / r.time - 1);
  }
  return errors_of(std::move(errors));
}

}  // namespace rehearse
