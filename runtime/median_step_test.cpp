#include "runtime/median_step.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <gtest/gtest.h>

#include "base/random.h"

namespace rehearse {
namespace {

Duration ms(int64_t n) {
  return Duration::nanoseconds(n * 1'000'000);
}

// A timeline that tells which step it is of.
Timeline timeline_of(Duration step) {
  return {.source = "measured", .spans = {{.begin = Duration(), .end = step}}};
}

// Adds steps of these times; checks the median and the bound after each.
MedianStep added(const std::vector<int64_t>& times) {
  MedianStep m;
  std::vector<int64_t> sorted;
  for (const int64_t t : times) {
    m.add(ms(t), timeline_of(ms(t)));
    sorted.insert(std::upper_bound(sorted.begin(), sorted.end(), t), t);
    EXPECT_EQ(m.median(), ms(sorted[sorted.size() / 2])) << "after " << sorted.size();
    EXPECT_LE(m.kept(), MedianStep::kKept);
    EXPECT_EQ(m.nearest().timeline.step(), m.nearest().step);
  }
  return m;
}

std::vector<int64_t> counted(int64_t n) {
  std::vector<int64_t> times(static_cast<size_t>(n));
  std::iota(times.begin(), times.end(), 1000);
  return times;
}

// How far the kept step is from the median, as a share of it.
double miss(const MedianStep& m) {
  return std::abs(m.nearest().step / m.median() - 1);
}

TEST(MedianStep, OfAFewStepsIsOneOfThem) {
  EXPECT_EQ(added({5}).nearest().step, ms(5));
  EXPECT_EQ(added({5, 7}).nearest().step, ms(7)) << "the upper one of two";
  EXPECT_EQ(added({9, 1, 5, 5, 2}).nearest().step, ms(5));
  std::vector<int64_t> times = counted(static_cast<int64_t>(MedianStep::kKept));
  do {
    const MedianStep m = added(times);
    EXPECT_EQ(m.nearest().step, m.median());
    std::rotate(times.begin(), times.begin() + 5, times.end());
  } while (times.front() != 1000);
}

// Steps from 1 s to 3 s in the worst orders: the true median, and a kept step within 5% of it.
TEST(MedianStep, OrdersThatMoveTheMedian) {
  std::vector<int64_t> times = counted(2000);
  EXPECT_LE(miss(added(times)), 0.05) << "ascending";
  std::reverse(times.begin(), times.end());
  EXPECT_LE(miss(added(times)), 0.05) << "descending";
  std::vector<int64_t> outside_in, inside_out;
  for (size_t i = 0; i < times.size() / 2; ++i) {
    outside_in.push_back(times[i]);
    outside_in.push_back(times[times.size() - 1 - i]);
  }
  inside_out.assign(outside_in.rbegin(), outside_in.rend());
  EXPECT_LE(miss(added(outside_in)), 0.05);
  EXPECT_LE(miss(added(inside_out)), 0.05);
  // Half of the steps at one speed, the others at another.
  std::vector<int64_t> two(1001, 1000);
  std::fill(two.begin() + 500, two.end(), 2000);
  EXPECT_EQ(added(two).nearest().step, ms(2000));
}

TEST(MedianStep, DriftWithNoise) {
  Random random(3);
  std::vector<int64_t> times;
  for (int64_t i = 0; i < 2000; ++i) {
    times.push_back(100'000 + 50 * i + static_cast<int64_t>(10'000 * random.normal()));
  }
  EXPECT_LE(miss(added(times)), 0.02);
}

// As real steps are: noise around one time, now and then a slow one.
TEST(MedianStep, SteadyStepsGiveOneThatIsTheMedianAllBut) {
  Random random(5);
  std::vector<int64_t> times;
  for (int64_t i = 0; i < 2000; ++i) {
    const double slow = i % 50 == 0 ? 3 : 1;
    times.push_back(static_cast<int64_t>(slow * (100'000 + 2'000 * random.normal())));
  }
  EXPECT_LE(miss(added(times)), 0.001);
}

}  // namespace
}  // namespace rehearse
