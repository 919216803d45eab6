// Known answers of max-min sharing: the system as formulas, the expectation derived by hand.

#include "sim/sharing.h"

#include <map>

#include <gtest/gtest.h>

namespace rehearse {
namespace {

// Runs to the end; returns when each payload finished, picoseconds.
std::map<uint64_t, int64_t> finish_times(Sharing& sharing, EventQueue queue = {}) {
  std::map<uint64_t, int64_t> times;
  sharing.update(Duration(), queue);
  std::vector<uint64_t> ended;
  while (!queue.empty()) {
    const auto event = queue.pop();
    ended.clear();
    sharing.finish(event, ended);
    for (const uint64_t payload : ended) times[payload] = event.time;
    sharing.update(Duration::picoseconds(event.time), queue);
  }
  return times;
}

constexpr double kNoBound = Sharing::kNoBound;

TEST(Sharing, TwoFlowsShareALinkThenOneHasItAlone) {
  // x1 + x2 <= 10; 100 and 300 units. Both at 5: the first ends at 20; the second has 200 left and
  // ends at 20 + 200 / 10 = 40.
  Sharing s;
  const Use link{.resource = s.add_resource(10)};
  s.start(Duration(), 100, kNoBound, {&link, 1}, 1);
  s.start(Duration(), 300, kNoBound, {&link, 1}, 2);
  const auto t = finish_times(s);
  EXPECT_EQ(t.at(1), 20);
  EXPECT_EQ(t.at(2), 40);
}

TEST(Sharing, TheClassicLine) {
  // x1 + x2 <= 1 (link a), x1 + x3 <= 2 (link b): max-min gives x1 = x2 = 1/2, x3 = 3/2.
  Sharing s;
  const ResourceId a = s.add_resource(1);
  const ResourceId b = s.add_resource(2);
  const Use both[] = {{a}, {b}};
  const Use only_a[] = {{a}};
  const Use only_b[] = {{b}};
  const ActivityId x1 = s.start(Duration(), 1000, kNoBound, both, 1);
  const ActivityId x2 = s.start(Duration(), 1000, kNoBound, only_a, 2);
  const ActivityId x3 = s.start(Duration(), 1000, kNoBound, only_b, 3);
  EventQueue queue;
  s.update(Duration(), queue);
  EXPECT_DOUBLE_EQ(s.rate(x1), 0.5);
  EXPECT_DOUBLE_EQ(s.rate(x2), 0.5);
  EXPECT_DOUBLE_EQ(s.rate(x3), 1.5);
}

TEST(Sharing, BoundsLeaveTheirShareToOthers) {
  // x1 + x2 + x3 <= 9, x1 <= 1: x1 = 1, x2 = x3 = 4.
  Sharing s;
  const Use link{.resource = s.add_resource(9)};
  const ActivityId x1 = s.start(Duration(), 100, 1, {&link, 1}, 1);
  const ActivityId x2 = s.start(Duration(), 100, kNoBound, {&link, 1}, 2);
  const ActivityId x3 = s.start(Duration(), 100, kNoBound, {&link, 1}, 3);
  EventQueue queue;
  s.update(Duration(), queue);
  EXPECT_DOUBLE_EQ(s.rate(x1), 1);
  EXPECT_DOUBLE_EQ(s.rate(x2), 4);
  EXPECT_DOUBLE_EQ(s.rate(x3), 4);
}

TEST(Sharing, WeightsAreConsumptionPerRate) {
  // 2 x1 + x2 <= 3, equal rates: x1 = x2 = 1.
  Sharing s;
  const ResourceId r = s.add_resource(3);
  const Use twice{.resource = r, .weight = 2};
  const Use once{.resource = r, .weight = 1};
  const ActivityId x1 = s.start(Duration(), 10, kNoBound, {&twice, 1}, 1);
  const ActivityId x2 = s.start(Duration(), 10, kNoBound, {&once, 1}, 2);
  EventQueue queue;
  s.update(Duration(), queue);
  EXPECT_DOUBLE_EQ(s.rate(x1), 1);
  EXPECT_DOUBLE_EQ(s.rate(x2), 1);
}

TEST(Sharing, ThreeTasksOnTwoCores) {
  // Each bounded by one core: x1 + x2 + x3 <= 2, x <= 1: 2/3 each. 60 units end at 90.
  Sharing s;
  const Use cores{.resource = s.add_resource(2)};
  for (uint64_t i = 0; i < 3; ++i) s.start(Duration(), 60, 1, {&cores, 1}, i);
  for (const auto& [payload, time] : finish_times(s)) EXPECT_EQ(time, 90) << payload;
}

TEST(Sharing, UnconnectedPartsDoNotTouchEachOther) {
  Sharing s;
  const Use a{.resource = s.add_resource(3)};
  const Use b{.resource = s.add_resource(7)};
  s.start(Duration(), 30, kNoBound, {&a, 1}, 1);
  s.start(Duration(), 70, kNoBound, {&b, 1}, 2);
  EventQueue queue;
  Sharing::wait(Duration(), Duration::picoseconds(5), queue, 3);
  s.start(Duration(), 0, 1, {}, 4);
  const auto t = finish_times(s, queue);
  EXPECT_EQ(t.at(1), 10);
  EXPECT_EQ(t.at(2), 10);
  EXPECT_EQ(t.at(3), 5);
  EXPECT_EQ(t.at(4), 0);
}

TEST(EventQueue, OrdersByTimeThenBySequence) {
  EventQueue q;
  for (uint64_t i = 0; i < 1000; ++i) q.push(static_cast<int64_t>((i * 7919) % 10), i);
  int64_t time = -1;
  uint64_t sequence = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto e = q.pop();
    EXPECT_TRUE(e.time > time || (e.time == time && e.sequence > sequence));
    time = e.time;
    sequence = e.sequence;
  }
  EXPECT_TRUE(q.empty());
}

}  // namespace
}  // namespace rehearse
