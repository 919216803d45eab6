// Cells per rank against the published schedules, and their bubbles.

#include "plan/program/schedule.h"

#include <map>

#include <gtest/gtest.h>

#include "plan/program/program.h"

namespace rehearse {
namespace {

// Every cell of a rank as the schedule's description writes it: directions from the rank's nearer
// end ("F0&B1", "Bi1", "W").
std::vector<std::string> described(ScheduleKind kind, int64_t pp, int64_t n, int64_t rank) {
  std::vector<std::string> out;
  for (const Cell& c : build_schedule({.pp = pp, .schedule = kind}, n, rank)) {
    const auto near = [&](const MicroBatch& m) {
      const bool swap = kind == ScheduleKind::kDualPipe && rank >= pp / 2;
      return std::to_string(swap ? 1 - m.direction : m.direction);
    };
    switch (c.kind) {
      case CellKind::kForward:
        out.push_back("F" + near(c.forward));
        break;
      case CellKind::kBackward:
        out.push_back("B" + near(c.backward));
        break;
      case CellKind::kBackwardInput:
        out.push_back("Bi" + near(c.backward));
        break;
      case CellKind::kBackwardWeight:
        out.push_back("W");
        break;
      case CellKind::kOverlapped:
        out.push_back("F" + near(c.forward) + "&B" + near(c.backward));
        break;
    }
  }
  return out;
}

// `times` times each of `cells`.
void append(std::vector<std::string>& out, int64_t times, std::vector<std::string> cells) {
  for (int64_t i = 0; i < times; ++i) out.insert(out.end(), cells.begin(), cells.end());
}

// DualPipe in the words of its description: 1) 2(hp-hr-1) F0; 2) hr+1 times F0 F1; 3) hp-hr-1 times
// Bi1 W F1; 4) n/2-PP+hr+1 times F0&B1, F1&B0, the first pair of the middle ranks in turn; 5)
// hp-hr-1 times B1, F1&B0; 6) 2(hr+1) backwards B1, B0, ..., the last hr+1 of them Bi; 7) hp-hr-1
// times W Bi0; 8) hr+1 W.
std::vector<std::string> dualpipe_description(int64_t pp, int64_t n, int64_t rank) {
  const int64_t hr = std::min(rank, pp - 1 - rank);
  const int64_t hp = pp / 2;
  std::vector<std::string> out;
  append(out, 2 * (hp - hr - 1), {"F0"});
  append(out, hr + 1, {"F0", "F1"});
  append(out, hp - hr - 1, {"Bi1", "W", "F1"});
  int64_t pairs = n / 2 - pp + hr + 1;
  if (hr == hp - 1) {
    append(out, 1, {"F0", "B1", "F1&B0"});
    --pairs;
  }
  append(out, pairs, {"F0&B1", "F1&B0"});
  append(out, hp - hr - 1, {"B1", "F1&B0"});
  std::vector<std::string> backwards;
  append(backwards, hr + 1, {"B1", "B0"});
  for (size_t i = static_cast<size_t>(hr + 1); i < backwards.size(); ++i) {
    backwards[i].insert(1, "i");
  }
  append(out, 1, backwards);
  append(out, hp - hr - 1, {"W", "Bi0"});
  append(out, hr + 1, {"W"});
  return out;
}

TEST(Schedule, DualPipeHasTheDescribedCells) {
  for (const auto& [pp, n] : std::vector<std::pair<int64_t, int64_t>>{
           {2, 4}, {2, 10}, {4, 8}, {8, 20}, {16, 32}, {16, 120}}) {
    for (int64_t rank = 0; rank < pp; ++rank) {
      EXPECT_EQ(described(ScheduleKind::kDualPipe, pp, n, rank), dualpipe_description(pp, n, rank))
          << pp << " x " << n << ", rank " << rank;
    }
  }
}

TEST(Schedule, OneForwardOneBackward) {
  for (const auto& [pp, n] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 3}, {4, 8}, {8, 20}, {4, 2}}) {
    for (int64_t rank = 0; rank < pp; ++rank) {
      std::vector<std::string> expected;
      const int64_t warmup = std::min(pp - 1 - rank, n);
      append(expected, warmup, {"F0"});
      append(expected, n - warmup, {"F0", "B0"});
      append(expected, warmup, {"B0"});
      EXPECT_EQ(described(ScheduleKind::k1F1B, pp, n, rank), expected);
    }
  }
}

// ZB1P: PP-1-r F; then F and Bi in turn, Bi alone when F has run out; from the (r+1)-th Bi on one W
// after each; then the remaining W.
TEST(Schedule, ZeroBubble) {
  for (const auto& [pp, n] : std::vector<std::pair<int64_t, int64_t>>{{1, 3}, {4, 8}, {8, 20}}) {
    for (int64_t rank = 0; rank < pp; ++rank) {
      std::vector<std::string> expected;
      append(expected, pp - 1 - rank, {"F0"});
      int64_t weights = 0;
      for (int64_t b = 0; b < n; ++b) {
        if (pp - 1 - rank + b < n) expected.push_back("F0");
        expected.push_back("Bi0");
        if (b + 1 >= rank + 1) {
          expected.push_back("W");
          ++weights;
        }
      }
      append(expected, n - weights, {"W"});
      EXPECT_EQ(described(ScheduleKind::kZB1P, pp, n, rank), expected) << "rank " << rank;
    }
  }
}

TEST(Schedule, EveryMicroBatchPassesEachStageOnce) {
  for (const auto kind : {ScheduleKind::k1F1B,
                          ScheduleKind::kInterleaved,
                          ScheduleKind::kZB1P,
                          ScheduleKind::kDualPipe,
                          ScheduleKind::kDualPipeV}) {
    const Layout layout{.pp = 8, .schedule = kind, .chunks = 3};
    for (int64_t rank = 0; rank < 8; ++rank) {
      using Visit = std::pair<int32_t, int32_t>;  // stage's slot, micro-batch
      std::map<Visit, int> forward, backward, weight;
      const auto visit = [](const MicroBatch& m) { return Visit{m.direction, m.index}; };
      for (const Cell& c : build_schedule(layout, 24, rank)) {
        if (c.has_forward()) ++forward[visit(c.forward)];
        if (c.has_backward() && c.kind != CellKind::kBackwardWeight) ++backward[visit(c.backward)];
        if (c.has_backward() && c.kind != CellKind::kBackwardInput) ++weight[visit(c.backward)];
      }
      for (const auto* passes : {&forward, &backward, &weight}) {
        EXPECT_EQ(static_cast<int64_t>(passes->size()), 24 * layout.slots() / layout.copies());
        for (const auto& [v, times] : *passes) EXPECT_EQ(times, 1) << "micro-batch " << v.second;
      }
    }
  }
}

// Narayanan et al. 2021, figure 4 (lower half): 4 ranks, 2 chunks, 8 micro-batches; the first rank
// starts with micro-batches 0 to 3 of its first chunk, then of its second, then 4 to 6 of its
// first.
TEST(Schedule, InterleavedWarmsUpThroughItsChunks) {
  const RankSchedule cells = interleaved(4, 2, 8, 0);
  std::vector<std::string> first;
  for (size_t i = 0; i < 14; ++i) first.push_back(to_string(cells[i]));
  EXPECT_EQ(first,
            (std::vector<std::string>{"F0.0",
                                      "F0.1",
                                      "F0.2",
                                      "F0.3",
                                      "F1.0",
                                      "F1.1",
                                      "F1.2",
                                      "F1.3",
                                      "F0.4",
                                      "F0.5",
                                      "F0.6",
                                      "B1.0",
                                      "F0.7",
                                      "B1.1"}));
  EXPECT_EQ(interleaved(4, 1, 8, 1)[0], one_f_one_b(4, 8, 1)[0]);
}

// Rank r of R does what rank r of a DualPipe of 2R ranks does, a micro-batch's two legs being the
// two directions there.
TEST(Schedule, DualPipeVIsHalfADualPipe) {
  for (int64_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(described(ScheduleKind::kDualPipeV, 4, 10, rank), dualpipe_description(8, 20, rank));
  }
}

TEST(Schedule, HeldMicroBatches) {
  // The report's table 2: PP for 1F1B and ZB1P on the fullest rank, PP+1 for DualPipe on all.
  for (int64_t rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(peak_micro_batches(one_f_one_b(8, 20, rank)), 8 - rank);
    EXPECT_EQ(peak_micro_batches(zb1p(8, 20, rank)), 8);
    EXPECT_EQ(peak_micro_batches(dualpipe(8, 20, rank)), 9);
    EXPECT_EQ(peak_micro_batches(dualpipev(8, 20, rank)), 17);
  }
}

TEST(Schedule, HeldMicroBatchesFormulas) {
  for (const auto kind : {ScheduleKind::k1F1B,
                          ScheduleKind::kInterleaved,
                          ScheduleKind::kZB1P,
                          ScheduleKind::kDualPipe,
                          ScheduleKind::kDualPipeV}) {
    const Layout layout{.pp = 4, .schedule = kind, .chunks = 3};
    int64_t most = 0;
    for (int64_t rank = 0; rank < 4; ++rank) {
      most = std::max(most, peak_micro_batches(build_schedule(layout, 24, rank)));
    }
    EXPECT_EQ(most, facts_of(kind).peak_micro_batches(layout.pp, layout.chunks)) << name_of(kind);
  }
}

TEST(Schedule, SaysWhatWouldBeRight) {
  EXPECT_EQ(facts_of(ScheduleKind::kDualPipe).check_ranks(3),
            "dualpipe needs an even number of pipeline ranks, found 3; use 2 or 4, or another "
            "schedule");
  EXPECT_EQ(facts_of(ScheduleKind::kDualPipe).check_micro_batches(8, 14),
            "dualpipe on 8 pipeline ranks needs an even number of micro-batches, at least 16; "
            "found 14");
  EXPECT_EQ(facts_of(ScheduleKind::kDualPipe).check_micro_batches(8, 16), "");
  EXPECT_EQ(facts_of(ScheduleKind::k1F1B).check_micro_batches(8, 4), "");
  EXPECT_EQ(
      facts_of(ScheduleKind::kInterleaved).check_micro_batches(4, 10),
      "interleaved-1f1b on 4 pipeline ranks needs a multiple of 4 micro-batches; found 10, use "
      "12");
  EXPECT_EQ(facts_of(ScheduleKind::kDualPipeV).check_micro_batches(4, 7),
            "dualpipev on 4 pipeline ranks needs at least 8 micro-batches; found 7");
}

}  // namespace
}  // namespace rehearse
