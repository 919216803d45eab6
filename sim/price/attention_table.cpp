#include "sim/price/attention_table.h"

#include <cmath>

#include "base/errors.h"
#include "base/integers.h"
#include "cost/layer.h"

namespace rehearse {
namespace {

double d(int64_t x) {
  return static_cast<double>(x);
}

}  // namespace

AttentionTable::AttentionTable(std::vector<MeasuredAttention> rows,
                               const GpuPeaks& peaks,
                               int64_t sms)
    : rows_(std::move(rows)), peaks_(peaks), sms_(sms) {
  CHECK(!rows_.empty()) << "a table of no attention";
  for (const MeasuredAttention& r : rows_) {
    factors_.add(point(r.shape), r.time / ideal(r.shape));
    measured_.emplace(r.shape, r.time);
  }
}

Duration AttentionTable::ideal(const AttentionShape& s) const {
  const Core core{.heads = s.heads,
                  .qk = s.qk,
                  .v = s.v,
                  .kv_heads = s.kv_heads,
                  .window = s.window > 0 ? std::optional(s.window) : std::nullopt};
  const double pairs = d(s.batch) * d(s.sequence) * core.keys(s.sequence, true);
  const Flops flops(2 * pairs * d(s.heads) * d(s.qk + s.v));
  // Keys and values also into the cache that the next tokens will read.
  constexpr int64_t kBf16 = 2;
  const Bytes bytes(s.batch * s.sequence * (s.heads + 2 * s.kv_heads) * (s.qk + s.v) * kBf16);
  const Duration kEnds = Duration::microseconds(3);
  return flops / peaks_.bf16 + bytes / peaks_.memory + kEnds;
}

ShapePoint AttentionTable::point(const AttentionShape& s) const {
  constexpr int64_t kQueries = 128;  // of a block
  ShapePoint p{};
  size_t i = 0;
  const auto add = [&](double weight, double value) {
    p[i++] = static_cast<float>(weight * value);
  };
  add(1, std::log2(d(s.sequence)));
  add(0.7, std::log2(d(s.batch * s.heads)));
  add(0.5, std::log2(d(s.heads) / d(s.kv_heads)));
  add(3, std::log2(d(s.qk)));
  add(1.5, std::log2(s.window > 0 ? d(s.window) : 1e6));
  add(2, fullness(d(s.batch * s.heads * ceil_div(s.sequence, kQueries)), d(sms_)));
  add(0.3, std::log2(d(s.batch)));
  return p;
}

Duration AttentionTable::time(const AttentionShape& shape) const {
  if (const auto found = measured_.find(shape); found != measured_.end()) return found->second;
  return Duration::seconds(ideal(shape).seconds() * factors_.told(point(shape)));
}

TableErrors AttentionTable::judge(Duration shortest) const {
  std::vector<JudgedRow> judged;
  for (const MeasuredAttention& r : rows_) {
    judged.push_back(
        {static_cast<uint64_t>(r.shape.heads) << 32 | static_cast<uint64_t>(r.shape.kv_heads),
         r.time});
  }
  return leave_out_families(
      judged, shortest, [&](size_t i, const NearestFactors::LeftOut& left_out) {
        const AttentionShape& s = rows_[i].shape;
        return Duration::seconds(ideal(s).seconds() * factors_.told(point(s), left_out));
      });
}

TableErrors AttentionTable::judge(Duration shortest,
                                  const std::vector<MeasuredAttention>& rows) const {
  std::vector<double> errors;
  for (const MeasuredAttention& r : rows) {
    if (r.time >= shortest) errors.push_back(time(r.shape) / r.time - 1);
  }
  return errors_of(std::move(errors));
}

}  // namespace rehearse
