// Known answers of max-min sharing: the system as formulas, the expectation derived by hand.

#include "sim/engine/sharing.h"

#include <algorithm>
#include <map>
#include <random>

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

// Water-filling as the textbook has it, all rates raised together until something stops them.
std::vector<double> water_fill(const std::vector<double>& capacities,
                               const std::vector<std::vector<Use>>& uses,
                               const std::vector<double>& bounds) {
  std::vector<double> rates(uses.size(), 0);
  std::vector<char> fixed(uses.size(), 0);
  for (size_t left = uses.size(); left > 0;) {
    double level = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < uses.size(); ++i) {
      if (!fixed[i]) level = std::min(level, bounds[i]);
    }
    const auto share = [&](size_t r) {
      double taken = 0;
      double weight = 0;
      for (size_t i = 0; i < uses.size(); ++i) {
        for (const Use& u : uses[i]) {
          if (static_cast<size_t>(u.resource) != r) continue;
          fixed[i] ? taken += u.weight * rates[i] : weight += u.weight;
        }
      }
      return weight == 0 ? std::numeric_limits<double>::infinity()
                         : (capacities[r] - taken) / weight;
    };
    for (size_t r = 0; r < capacities.size(); ++r) level = std::min(level, share(r));
    std::vector<size_t> tight;
    for (size_t r = 0; r < capacities.size(); ++r) {
      if (share(r) <= level * (1 + 1e-12)) tight.push_back(r);
    }
    for (size_t i = 0; i < uses.size(); ++i) {
      if (fixed[i]) continue;
      bool stops = bounds[i] <= level * (1 + 1e-12);
      for (const Use& u : uses[i]) {
        stops |=
            std::find(tight.begin(), tight.end(), static_cast<size_t>(u.resource)) != tight.end();
      }
      if (!stops) continue;
      rates[i] = level;
      fixed[i] = 1;
      --left;
    }
  }
  return rates;
}

// Random systems that change under way: after every start and end all rates are the
// textbook's.
TEST(Sharing, RatesAreTheTextbooksAfterEveryChange) {
  std::mt19937_64 random(1);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  const auto real = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  int64_t compared = 0;
  for (int system = 0; system < 150; ++system) {
    Sharing sharing;
    std::vector<double> capacities;
    const size_t resources = 1 + below(12);
    for (size_t r = 0; r < resources; ++r) {
      capacities.push_back(below(3) == 0 ? 1 : real(0.1, 10));
      sharing.add_resource(capacities.back());
    }
    struct Running {
      ActivityId id;
      std::vector<Use> uses;
      double bound;
    };
    std::map<uint64_t, Running> running;
    EventQueue queue;
    Duration now;
    uint64_t next = 0;
    std::vector<uint64_t> ended;
    for (int change = 0; change < 80; ++change) {
      if (change < 60 && (running.empty() || below(3) != 0)) {
        for (size_t n = 1 + below(4); n > 0; --n) {
          std::vector<Use> uses;
          for (size_t r = 0; r < resources; ++r) {
            if (below(resources) < 2 && uses.size() < 4) {
              uses.push_back({static_cast<ResourceId>(r), below(2) ? 1 : real(0.2, 3)});
            }
          }
          const double bound = uses.empty() || below(4) == 0 ? real(0.05, 4) : kNoBound;
          const ActivityId id = sharing.start(now, real(0, 1e6), bound, uses, next);
          running[next++] = {id, uses, bound};
        }
      } else if (!queue.empty()) {
        const auto event = queue.pop();
        now = Duration::picoseconds(event.time);
        ended.clear();
        sharing.finish(event, ended);
        for (const uint64_t payload : ended) ASSERT_EQ(running.erase(payload), 1u);
      }
      sharing.update(now, queue);
      std::vector<std::vector<Use>> uses;
      std::vector<double> bounds;
      for (const auto& [payload, r] : running) {
        uses.push_back(r.uses);
        bounds.push_back(r.bound);
      }
      const std::vector<double> rates = water_fill(capacities, uses, bounds);
      size_t i = 0;
      for (const auto& [payload, r] : running) {
        ASSERT_NEAR(sharing.rate(r.id) / rates[i], 1, 1e-8) << "system " << system;
        ++i;
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 20'000);
}

// What a component does does not depend on what its resources did before: the same flows later, on
// other ports, end after the same time to the picosecond.
TEST(Sharing, NothingIsRememberedOfABusyPast) {
  Sharing sharing;
  for (int r = 0; r < 20; ++r) sharing.add_resource(0.05);
  EventQueue queue;
  std::mt19937_64 random(3);
  std::vector<double> bytes;
  for (int i = 0; i < 25; ++i) bytes.push_back(static_cast<double>(random() % 1'000'000));
  const auto run = [&](ResourceId first, Duration begin) {
    for (ResourceId i = 0; i < 5; ++i) {
      for (ResourceId j = 0; j < 5; ++j) {
        const Use uses[] = {{first + i}, {first + 5 + j}};
        sharing.start(begin, bytes[static_cast<size_t>(5 * i + j)], kNoBound, uses, 0);
      }
    }
    sharing.update(begin, queue);
    std::vector<int64_t> ends;
    std::vector<uint64_t> ended;
    while (!queue.empty()) {
      const auto event = queue.pop();
      ended.clear();
      sharing.finish(event, ended);
      for (size_t n = 0; n < ended.size(); ++n) ends.push_back(event.time - begin.picoseconds());
      sharing.update(Duration::picoseconds(event.time), queue);
    }
    return ends;
  };
  const auto fresh = run(0, Duration());
  EXPECT_EQ(fresh.size(), 25u);
  EXPECT_EQ(run(0, Duration::picoseconds(987'654'321'987)), fresh);
  EXPECT_EQ(run(10, Duration::picoseconds(1'987'654'321'987)), fresh);
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
