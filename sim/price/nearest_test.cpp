#include "sim/price/nearest.h"

#include <set>

#include <gtest/gtest.h>

#include "base/random.h"

namespace rehearse {
namespace {

struct Length {
  int64_t length = 0;
  auto operator<=>(const Length&) const = default;
};
using Lengths = NearestTable<Length>;

// Every row 2 us where 1 us is ideal; those of a hundred are a family.
Lengths table_of(const std::vector<int64_t>& lengths, uint64_t folds) {
  Lengths::Rows rows;
  for (const int64_t n : lengths) rows.push_back({{n}, Duration::microseconds(2)});
  return {std::move(rows),
          {.ideal = [](const Length&) { return Duration::microseconds(1); },
           .point = [](const Length& l) { return ShapePoint{static_cast<float>(l.length)}; },
           .family = [](const Length& l) { return static_cast<uint64_t>(l.length / 100); },
           .folds = folds}};
}

// However few families there are, and wherever they are dealt to, the others tell one.
TEST(NearestTable, TwoFamiliesAreEnough) {
  const auto all = [](const auto&) { return true; };
  for (int64_t other = 1; other < 40; ++other) {
    const Lengths table = table_of({7, 8, 100 * other}, 8);
    EXPECT_EQ(table.families(all), 2u);
    const TableErrors e = table.judge(all);
    EXPECT_EQ(e.rows, 3);
    EXPECT_NEAR(e.mean_absolute, 0, 1e-12);
  }
  EXPECT_EQ(table_of({7, 8, 99}, 8).families(all), 1u);
  EXPECT_EQ(table_of({7}, 8).families([](const auto&) { return false; }), 0u);
}

TEST(NearestTable, FamiliesOfOneFoldAreDealtOutAnew) {
  EXPECT_EQ(dealt_out({3, 5, 3}, 1), (std::vector<uint64_t>{3, 5, 3}));
  EXPECT_EQ(dealt_out({}, 8), std::vector<uint64_t>());
  std::vector<uint64_t> many;
  for (uint64_t f = 0; f < 100; ++f) many.push_back(f);
  const std::vector<uint64_t> folds = dealt_out(many, 8);
  for (const uint64_t f : many) EXPECT_EQ(folds[f], split_mix(f) % 8);
  EXPECT_EQ(std::set<uint64_t>(folds.begin(), folds.end()).size(), 8u);
}

}  // namespace
}  // namespace rehearse
