#include "plan/batch_ramp.h"

#include <gtest/gtest.h>

#include "plan/testing.h"

namespace rehearse {
namespace {

TEST(BatchRamp, WithoutOneAllStepsAreAlike) {
  Plan plan = small_plan({.dp = 2});
  const BatchRamp ramp(plan.training, plan.layout);
  for (const int64_t step : {0, 1, 1000}) EXPECT_EQ(ramp.micro_batches_at(step), 8);
  EXPECT_EQ(ramp.steps_for(static_cast<double>(plan.step_tokens())), 1);
  EXPECT_EQ(ramp.steps_for(static_cast<double>(plan.step_tokens()) * 10 + 1), 11);
}

// Step by step: the line, and what the schedule allows below it.
TEST(BatchRamp, FollowsTheLine) {
  Plan plan = small_plan({.pp = 2, .dp = 2, .schedule = ScheduleKind::kDualPipe});
  plan.training.micro_batches = 16;
  plan.training.ramp_from = 20;
  plan.training.ramp_steps = 10;
  const BatchRamp ramp(plan.training, plan.layout);
  int64_t before = 0;
  for (int64_t step = 0; step < 15; ++step) {
    const double line = std::min(16.0, 5 + 11.0 * static_cast<double>(step) / 10);
    const int64_t n = ramp.micro_batches_at(step);
    EXPECT_EQ(n % 2, 0);  // DualPipe's
    EXPECT_GE(n, 4);
    EXPECT_LE(static_cast<double>(n), std::max(4.0, line + 1e-9));
    EXPECT_GT(static_cast<double>(n), line - 2);
    EXPECT_GE(n, before);
    before = n;
  }
  EXPECT_EQ(before, 16);
}

// By tokens: the report's own ramp, told again token by token.
TEST(BatchRamp, InTokens) {
  Plan plan = small_plan({.dp = 128});
  Training& t = plan.training;
  t.micro_batches = 120;
  t.micro_batch_size = 1;
  t.sequence_length = 4096;
  t.ramp_from = 3072;
  t.ramp_tokens = 469e9;
  const BatchRamp ramp(t, plan.layout);
  double tokens = 0;
  int64_t step = 0;
  for (; tokens < 500e9; ++step) {
    const double line = 3072 + (15360 - 3072) * std::min(1.0, tokens / 469e9);
    const int64_t n = ramp.micro_batches_at(step);
    ASSERT_EQ(n, static_cast<int64_t>(line / 128 + 1e-9)) << "step " << step;
    if (step % 1000 == 0 && step > 0) EXPECT_EQ(ramp.steps_for(tokens), step);
    tokens += static_cast<double>(n * 128 * 4096);
  }
}

}  // namespace
}  // namespace rehearse
