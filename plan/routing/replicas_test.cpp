#include "plan/routing/replicas.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/random.h"

namespace rehearse {
namespace {

double fullest(const Placement& p, const std::vector<double>& loads) {
  const std::vector<double> ranks = rank_loads(p, loads);
  return *std::ranges::max_element(ranks);
}

// The example of EPLB's README: two layers of twelve experts, 16 replicas in 4 groups, on 2 nodes
// of 4 GPUs each.
TEST(Placement, PublishedExample) {
  const PlacementShape shape{.ranks = 8, .slots = 2, .nodes = 2, .groups = 4};
  EXPECT_EQ(
      published_placement({90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, shape).expert_of,
      (std::vector<int32_t>{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(
      published_placement({20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}, shape).expert_of,
      (std::vector<int32_t>{7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

TEST(Placement, BetterThanTheGreedyPolicy) {
  const std::vector<double> loads{600, 560, 120, 120, 20, 10, 10, 10};
  const PlacementShape shape{.ranks = 8, .slots = 2};
  EXPECT_DOUBLE_EQ(placement_bound(loads, shape).mean, 181.25);
  EXPECT_DOUBLE_EQ(fullest(published_placement(loads, shape), loads), 232);
  EXPECT_NEAR(fullest(balanced_placement(loads, shape), loads), 560.0 / 3 + 10, 1e-9);
}

// Every number of replicas and every packing.
double brute_force(const std::vector<double>& loads, int64_t ranks, int64_t slots) {
  double best = 1e30;
  std::vector<int64_t> counts(loads.size(), 1);
  std::vector<int64_t> left;
  std::function<void(size_t, std::vector<double>&, std::vector<int64_t>&, double)> pack =
      [&](size_t item, std::vector<double>& sums, std::vector<int64_t>& room, double most) {
        if (most >= best) return;
        size_t e = 0;
        for (size_t n = item; e < counts.size() && n >= static_cast<size_t>(counts[e]); ++e) {
          n -= static_cast<size_t>(counts[e]);
        }
        if (e == counts.size()) {
          best = most;
          return;
        }
        const double size = loads[e] / static_cast<double>(counts[e]);
        for (size_t r = 0; r < sums.size(); ++r) {
          if (room[r] == 0) continue;
          --room[r];
          sums[r] += size;
          pack(item + 1, sums, room, std::max(most, sums[r]));
          sums[r] -= size;
          ++room[r];
        }
      };
  std::function<void(size_t, int64_t)> count = [&](size_t e, int64_t extra) {
    if (e + 1 == counts.size()) {
      counts[e] = 1 + extra;
      std::vector<double> sums(static_cast<size_t>(ranks), 0);
      std::vector<int64_t> room(static_cast<size_t>(ranks), slots);
      pack(0, sums, room, 0);
      return;
    }
    for (int64_t more = 0; more <= extra; ++more) {
      counts[e] = 1 + more;
      count(e + 1, extra - more);
    }
  };
  count(0, ranks * slots - static_cast<int64_t>(loads.size()));
  return best;
}

TEST(Placement, SmallCasesAreOptimal) {
  Random random(3);
  for (int i = 0; i < 60; ++i) {
    const int64_t ranks = 2 + static_cast<int64_t>(random.next() % 3);
    const int64_t slots = 1 + static_cast<int64_t>(random.next() % 3);
    const auto most = static_cast<uint64_t>(std::min<int64_t>(ranks * slots, 7));
    std::vector<double> loads(std::max<uint64_t>(2, 1 + random.next() % most));
    for (double& w : loads) w = std::exp(2 * random.normal());
    if (static_cast<int64_t>(loads.size()) > ranks * slots) continue;
    const PlacementShape shape{.ranks = ranks, .slots = slots};
    const Placement p = balanced_placement(loads, shape);
    EXPECT_EQ(why_not(p), "");
    EXPECT_NEAR(fullest(p, loads), brute_force(loads, ranks, slots), 1e-9)
        << ranks << " x " << slots << ", " << loads.size() << " experts";
  }
}

TEST(Placement, LargeCasesComeNearTheBound) {
  Random random(5);
  const PlacementShape shape{.ranks = 64, .slots = 5, .nodes = 8, .groups = 8};
  for (const double skew : {0.2, 0.5, 1.0, 1.5, 2.0}) {
    std::vector<double> loads(256);
    for (double& w : loads) w = std::exp(skew * random.normal());
    const PlacementBound bound = placement_bound(loads, shape);
    const Placement p = balanced_placement(loads, shape);
    EXPECT_EQ(why_not(p), "");
    EXPECT_LT(fullest(p, loads), 1.01 * std::max(bound.mean, bound.with_companions)) << skew;
    EXPECT_LE(fullest(p, loads), fullest(published_placement(loads, shape), loads) * (1 + 1e-9));
    const Placement h = hierarchical_placement(loads, shape);
    EXPECT_EQ(why_not(h), "");
    EXPECT_LE(fullest(h, loads), 1.001 * fullest(published_placement(loads, shape), loads));
    // Groups stay whole on a node.
    for (size_t s = 0; s < h.expert_of.size(); ++s) {
      const auto node_of = [&](size_t slot) { return slot / (8 * 5); };
      const auto first = std::ranges::find_if(
          h.expert_of, [&](int32_t e) { return e / 32 == h.expert_of[s] / 32; });
      EXPECT_EQ(node_of(s), node_of(static_cast<size_t>(first - h.expert_of.begin())));
    }
  }
}

// The linear program: no more than even spreading, no less than the mean, all tokens told.
TEST(Placement, TokensSpreadOverReplicas) {
  Random random(9);
  for (int i = 0; i < 20; ++i) {
    std::vector<double> loads(32);
    for (double& w : loads) w = std::floor(1000 * std::exp(random.normal()));
    const PlacementShape shape{.ranks = 8, .slots = 5};
    const Placement p = published_placement(loads, shape);
    const TokenSpread s = best_spread(p, loads);
    EXPECT_LE(s.fullest, fullest(p, loads) * (1 + 1e-9));
    EXPECT_GE(s.fullest, placement_bound(loads, shape).mean * (1 - 1e-9));
    std::vector<double> told(loads.size(), 0), ranks(8, 0);
    for (size_t slot = 0; slot < p.expert_of.size(); ++slot) {
      told[static_cast<size_t>(p.expert_of[slot])] += s.slot_loads[slot];
      ranks[slot / 5] += s.slot_loads[slot];
    }
    for (size_t e = 0; e < loads.size(); ++e) EXPECT_NEAR(told[e], loads[e], 1e-6);
    EXPECT_NEAR(*std::ranges::max_element(ranks), s.fullest, 1e-6);
  }
}

TEST(Placement, FilesAreReadAsTheyAreWritten) {
  const std::string path = testing::TempDir() + "placement.json";
  const std::vector<Placement> two{published_placement({5, 4, 3, 2, 1}, {.ranks = 3, .slots = 2}),
                                   published_placement({1, 1, 9, 2, 1}, {.ranks = 3, .slots = 2})};
  write_file(path, print_placement(two));
  EXPECT_EQ(read_placement(path, 5, 3), two);
  const auto error = [&](const std::string& text) {
    write_file(path, text);
    try {
      read_placement(path, 5, 3);
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(error("[0, 1, 2, 3, 4, 5]").find("slot 5 holds expert 5"), std::string::npos);
  EXPECT_NE(error("[0, 1, 2, 3, 3, 0]").find("expert 4 is on no rank"), std::string::npos);
  EXPECT_NE(error("[0, 1, 2, 3, 4]").find("5 slots"), std::string::npos);
  EXPECT_NE(error("[0, 1, 2, 3, 4, \"a\"]").find("slot 5"), std::string::npos);
  EXPECT_NE(error("[[0, 1, 2, 3, 4, 0], [0]]").find("layer 1"), std::string::npos);
  EXPECT_NE(error("{").find("is not JSON"), std::string::npos);
  EXPECT_NE(error("{}").find("expected a list"), std::string::npos);
  EXPECT_NE(error("[0, 1, 2, 3, 4, 99999999999]").find("slot 5"), std::string::npos);
}

}  // namespace
}  // namespace rehearse
