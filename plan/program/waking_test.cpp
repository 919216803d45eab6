#include "plan/program/waking.h"

#include <array>

#include <gtest/gtest.h>

namespace rehearse {
namespace {

Duration us(int64_t n) {
  return Duration::nanoseconds(1000 * n);
}

// One rank, one MoE layer, one micro-batch: lanes take turns, so that never two ops are under way.
// Every op takes 100 us; one that waits for another lane begins `woken` after it, all others at
// once.
struct Turns {
  explicit Turns(Duration woken)
      : program(Program::build({.layout = {.layers_per_stage = {1}}, .micro_batches = 1})) {
    timeline.spans.resize(program.ops().size());
    std::array<Duration, kLanes> free{};
    for (const Op& op : program.ops()) {
      Duration& own = free[static_cast<size_t>(op.lane)];
      Duration others;
      for (const int32_t d : program.dependencies(op.id)) {
        if (program.ops()[static_cast<size_t>(d)].lane == op.lane) continue;
        others = std::max(others, timeline.spans[static_cast<size_t>(d)].end);
      }
      const bool waits = others > own;
      waiting += waits && op.lane == Lane::kCompute && op.group == Group::kNone;
      const Duration begin = waits ? others + woken : own;
      timeline.spans[static_cast<size_t>(op.id)] = {begin, begin + us(100)};
      own = begin + us(100);
    }
  }
  Program program;
  Timeline timeline{.source = "measured"};
  int64_t waiting = 0;
};

TEST(Waking, IsTheTimeFromWhatAnOpWaitedForToItsBegin) {
  const Turns t(us(7));
  const Waking w = waking_of(t.program, t.timeline, 2, us(10));
  EXPECT_GE(t.waiting, 2);
  EXPECT_EQ(w.ops, t.waiting);
  EXPECT_EQ(w.median, us(7));
  EXPECT_EQ(w.late, us(0));
  EXPECT_FALSE(woke_late(w, t.timeline.step()));
}

TEST(Waking, LateIsWhatIsBeyondTheCalibration) {
  const Turns t(us(90));
  const Waking w = waking_of(t.program, t.timeline, 2, us(10));
  EXPECT_EQ(w.late, us(80) * t.waiting);
  EXPECT_TRUE(woke_late(w, w.late * 19));
  EXPECT_FALSE(woke_late(w, w.late * 21));
  EXPECT_FALSE(woke_late(w, Duration()));
}

// A rank's own lanes may keep each other from the cores: such time is nobody else's.
TEST(Waking, TimeInWhichOwnOpsHadAllCoresIsNotLate) {
  Turns t(us(90));
  const auto span_of = [&](OpKind kind) -> Span& {
    for (const Op& op : t.program.ops()) {
      if (op.kind == kind && op.pass == Pass::kForward) {
        return t.timeline.spans[static_cast<size_t>(op.id)];
      }
    }
    throw std::out_of_range("no such op");
  };
  // A combine that is under way in the last 30 us of the gap in front of the MLP.
  span_of(OpKind::kCombine).begin = span_of(OpKind::kMlp).begin - us(30);
  const Duration others = us(80) * (t.waiting - 1);
  EXPECT_EQ(waking_of(t.program, t.timeline, 2, us(10)).late, others + us(80));
  EXPECT_EQ(waking_of(t.program, t.timeline, 1, us(10)).late, others + us(50));
}

}  // namespace
}  // namespace rehearse
