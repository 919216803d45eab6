#include "plan/program/waking.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace rehearse {
namespace {

// For how long, since the step began, fewer than some number of ops were under way.
class FreeTime {
 public:
  FreeTime(const Timeline& timeline, int64_t cores) {
    std::vector<std::pair<Duration, int>> changes;  // ends before begins of the same instant
    for (const Span& s : timeline.spans) {
      if (s.end <= s.begin) continue;
      changes.emplace_back(s.begin, 1);
      changes.emplace_back(s.end, -1);
    }
    std::sort(changes.begin(), changes.end());
    int64_t under_way = 0;
    Duration free;
    Duration last;
    for (const auto& [at, change] : changes) {
      if (under_way < cores) free += at - last;
      last = at;
      under_way += change;
      points_.push_back({at, free, under_way < cores});
    }
  }

  Duration until(Duration t) const {
    const auto after = std::upper_bound(
        points_.begin(), points_.end(), t, [](Duration x, const Point& p) { return x < p.at; });
    if (after == points_.begin()) return t;
    const Point& p = *(after - 1);
    return p.is_free ? p.free + (t - p.at) : p.free;
  }

 private:
  struct Point {
    Duration at, free;
    bool is_free;  // from here on
  };
  std::vector<Point> points_;
};

}  // namespace

Waking waking_of(const Program& program,
                 const Timeline& measured,
                 int64_t cores,
                 Duration allowed) {
  Waking w{.allowed = allowed};
  const FreeTime free(measured, cores);
  std::vector<Duration> gaps;
  Duration late;
  const auto span_of = [&](int32_t id, int32_t data_rank) -> const Span& {
    return measured.spans[static_cast<size_t>(program.global_id(id, data_rank))];
  };
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    for (int32_t d = 0; d < program.replicas(); ++d) {
      Duration lane_free;
      for (const int32_t id : program.lane(r, Lane::kCompute)) {
        const Op& op = program.ops()[static_cast<size_t>(id)];
        const Span& span = span_of(id, d);
        Duration others;
        for (const int32_t dependency : program.dependencies(id)) {
          if (program.ops()[static_cast<size_t>(dependency)].lane == Lane::kCompute) continue;
          others = std::max(others, span_of(dependency, d).end);
        }
        const Duration ready = std::max(lane_free, others);
        lane_free = span.end;
        // Collectives begin when their members have come.
        if (op.group != Group::kNone || span.begin <= ready) continue;
        late += std::max(Duration(), free.until(span.begin) - free.until(ready) - allowed);
        if (others > Duration() && others == ready) gaps.push_back(span.begin - ready);
      }
    }
  }
  w.ops = static_cast<int64_t>(gaps.size());
  if (!gaps.empty()) {
    const auto middle = gaps.begin() + static_cast<std::ptrdiff_t>(gaps.size() / 2);
    std::nth_element(gaps.begin(), middle, gaps.end());
    w.median = *middle;
  }
  const int64_t ranks = program.layout().pp * program.replicas();
  w.late = Duration::picoseconds(late.picoseconds() / ranks);
  return w;
}

bool woke_late(const Waking& waking, Duration step) {
  return step > Duration() && waking.late / step > kNoticedShare;
}

}  // namespace rehearse
