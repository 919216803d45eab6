#include "runtime/learning_rate.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace rehearse {
namespace {

std::vector<double> rates(const Training& t) {
  std::vector<double> all;
  for (int64_t i = 0; i < t.steps; ++i) all.push_back(learning_rate_at(t, i));
  return all;
}

TEST(LearningRate, EndsAtItsFinalValueAndPeaksOnce) {
  for (const int64_t warmup : {0, 1, 5}) {
    const Training t{
        .steps = 10, .learning_rate = 1e-3, .final_learning_rate = 1e-4, .warmup_steps = warmup};
    const auto all = rates(t);
    EXPECT_EQ(std::count(all.begin(), all.end(), 1e-3), 1) << warmup;
    EXPECT_EQ(all[static_cast<size_t>(std::max<int64_t>(0, warmup - 1))], 1e-3);
    EXPECT_DOUBLE_EQ(all.back(), 1e-4);
    for (size_t i = static_cast<size_t>(std::max<int64_t>(1, warmup)); i < all.size(); ++i) {
      EXPECT_LT(all[i], all[i - 1]);
    }
    for (size_t i = 1; i < static_cast<size_t>(warmup); ++i) EXPECT_GT(all[i], all[i - 1]);
  }
}

// DeepSeek-V3's recipe in small (report, section 4.2): warm-up, constant, cosine, held, tail.
TEST(LearningRate, HasAllPartsOfTheReportsSchedule) {
  const Training t{.steps = 20,
                   .learning_rate = 2.2e-4,
                   .final_learning_rate = 2.2e-5,
                   .warmup_steps = 2,
                   .constant_steps = 8,
                   .hold_steps = 3,
                   .tail_steps = 2,
                   .tail_learning_rate = 7.3e-6};
  const auto all = rates(t);
  EXPECT_DOUBLE_EQ(all[0], 1.1e-4);
  for (size_t i = 1; i < 10; ++i) EXPECT_EQ(all[i], 2.2e-4) << i;
  for (size_t i = 10; i < 15; ++i) EXPECT_LT(all[i], all[i - 1]) << i;
  EXPECT_DOUBLE_EQ(all[14], 2.2e-5);
  for (size_t i = 15; i < 18; ++i) EXPECT_EQ(all[i], 2.2e-5) << i;
  EXPECT_EQ(all[18], 7.3e-6);
  EXPECT_EQ(all[19], 7.3e-6);
}

TEST(LearningRate, OfOneStepAndOfAWarmupThatIsLongerThanTheTraining) {
  EXPECT_EQ(learning_rate_at({.steps = 1, .learning_rate = 1}, 0), 1);
  EXPECT_EQ(learning_rate_at({.steps = 2, .learning_rate = 1, .warmup_steps = 4}, 1), 0.5);
}

}  // namespace
}  // namespace rehearse
