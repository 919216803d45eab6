#include "sim/price/attention_table.h"

#include <cmath>

#include "base/integers.h"
#include "cost/layer.h"

namespace rehearse {
namespace {

double d(int64_t x) {
  return static_cast<double>(x);
}

Duration ideal_attention(const AttentionShape& s, const GpuPeaks& peaks) {
  // Keys and values also into the cache that the next tokens will read.
  constexpr int64_t kBf16 = 2;
  const Bytes bytes(s.batch * s.sequence * (s.heads + 2 * s.kv_heads) * (s.qk + s.v) * kBf16);
  const Duration kEnds = Duration::microseconds(3);
  return Flops(attention_flops(s)) / peaks.bf16 + bytes / peaks.memory + kEnds;
}

ShapePoint attention_point(const AttentionShape& s, int64_t sms) {
  constexpr int64_t kQueries = 128;  // of a block
  PointBuilder p;
  p.add(1, std::log2(d(s.sequence)));
  p.add(0.7, std::log2(d(s.batch * s.heads)));
  p.add(0.5, std::log2(d(s.heads) / d(s.kv_heads)));
  p.add(3, std::log2(d(s.qk)));
  p.add(1.5, std::log2(s.window > 0 ? d(s.window) : 1e6));
  p.add(2, fullness(d(s.batch * s.heads * ceil_div(s.sequence, kQueries)), d(sms)));
  p.add(0.3, std::log2(d(s.batch)));
  return p.point();
}

}  // namespace

double attention_flops(const AttentionShape& s) {
  const Core core{.window = s.window > 0 ? std::optional(s.window) : std::nullopt};
  return 2 * d(s.batch) * d(s.sequence) * core.keys(s.sequence, true) * d(s.heads) * d(s.qk + s.v);
}

AttentionTable::AttentionTable(Rows rows, const GpuPeaks& peaks, int64_t sms)
    : NearestTable(std::move(rows),
                   {.ideal = [=](const AttentionShape& s) { return ideal_attention(s, peaks); },
                    .point = [=](const AttentionShape& s) { return attention_point(s, sms); },
                    .family =
                        [](const AttentionShape& s) {
                          return static_cast<uint64_t>(s.heads) << 32 |
                                 static_cast<uint64_t>(s.kv_heads);
                        },
                    .folds = 8}) {}

}  // namespace rehearse
