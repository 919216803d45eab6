// Predictions with their interval, budgets and bubbles.

#include "sim/predict.h"

#include <cmath>

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "sim/bubble.h"
#include "sim/budget.h"

namespace rehearse {
namespace {

// Every kernel of the plan takes 10 us; single calls scatter by a tenth either way, rounds not.
Calibration even(const Plan& plan, const Program& program) {
  Calibration c{.cores = 64, .drift = {1, 1, 1, 1}};
  for (const KernelCall& call : kernels_of(plan, program)) {
    const Duration t = Duration::microseconds(100);
    c.kernels[call] = {
        .alone = t, .mean = t, .low = t.scaled(1 / 1.1), .high = t.scaled(1.1), .busy = t};
  }
  return c;
}

// All costs vary together, so that the step does as they do: low and high are the 5% and 95%
// quantiles of a logarithmic normal whose own quantiles are the calls'.
TEST(Predict, TheIntervalFollowsFromTheCalibration) {
  const Plan plan = small_plan({});
  const Program program = build_program(plan);
  const Calibration c = even(plan, program);
  EXPECT_NEAR(spread_of(plan, c).common, std::log(1.1) / 1.645, 1e-9);
  const StepPrediction p = predict(plan, program, c);
  EXPECT_NEAR(p.high / p.summary.step, 1.1, 0.01);
  EXPECT_NEAR(p.summary.step / p.low, 1.1, 0.01);
  // Nothing tells a spread without a calibration.
  const StepPrediction none = predict(plan, program, std::nullopt);
  EXPECT_EQ(none.low, none.high);
  EXPECT_EQ(none.low, none.summary.step);
}

TEST(Predict, TokensOfAStepAndOfAPair) {
  const Plan plan = small_plan({.dp = 2});
  EXPECT_EQ(tokens_of(plan, build_program(plan)), 8 * 2 * 16 * 2);
  EXPECT_EQ(tokens_of(plan, build_program(plan, Mode::kPair)), 2 * 16 * 2);
}

// A phase at the plan's own step, and one with twice the micro-batches: GPU-hours are steps times
// their length times ranks, days the hours over ranks.
TEST(Budget, SumsItsPhases) {
  Plan plan = small_plan({.dp = 2});
  plan.training.tokens = 1e6;
  plan.budget.usd_per_gpu_hour = 2;
  plan.budget.watts_per_gpu = 500;
  PhasePart own{.sequences = 32, .tokens = 5e5, .layout = plan.layout, .training = plan.training};
  PhasePart large = own;
  large.training.micro_batches = 16;
  large.sequences = 64;
  plan.budget.phases = {{.name = "own", .parts = {own}}, {.name = "large", .parts = {large}}};
  const Program program = build_program(plan);
  const StepPrediction step = predict(plan, program, std::nullopt);
  int64_t told = 0;
  const BudgetResult b = predict_budget(plan, std::nullopt, step, [&](int64_t done, int64_t all) {
    EXPECT_EQ(all, 2);
    told = done;
  });
  EXPECT_EQ(told, 2);
  const double step_s = step.summary.step.seconds();
  ASSERT_EQ(b.phases.size(), 2u);
  EXPECT_EQ(b.phases[0].steps, std::vector{step.summary.step});
  EXPECT_NEAR(b.phases[0].gpu_hours.value, 5e5 / 512 * step_s * 2 / 3600, 1e-9);
  const Plan twice = plan_of(plan, large);
  const double twice_s = simulate(twice, build_program(twice), std::nullopt).summary.step.seconds();
  EXPECT_NEAR(b.phases[1].gpu_hours.value, 5e5 / 1024 * twice_s * 2 / 3600, 1e-9);
  EXPECT_NEAR(
      b.gpu_hours_total.value, b.phases[0].gpu_hours.value + b.phases[1].gpu_hours.value, 1e-12);
  EXPECT_NEAR(b.days.value, b.gpu_hours_total.value / 48, 1e-12);
  EXPECT_NEAR(b.gpu_hours_pretrain->value, 1e6 / 512 * step_s * 2 / 3600, 1e-9);
  EXPECT_NEAR(b.cost_usd->value, 2 * b.gpu_hours_total.value, 1e-12);
  EXPECT_NEAR(b.energy_mwh->value, 500e-6 * b.gpu_hours_total.value, 1e-12);
}

// FLOPs per second are the step's tokens' over its time, MFU what that is of the peak.
TEST(Budget, SpeedsOfAStep) {
  const Plan plan = small_plan({.dp = 2});
  const Program program = build_program(plan);
  const StepPrediction step = predict(plan, program, std::nullopt);
  const Speeds s = speeds_of(plan, step);
  const double flops = training_flops_per_token(plan.model.architecture, 16, true).count();
  const double rate = flops * 512 / 2 / step.summary.step.seconds();
  EXPECT_NEAR(s.tflops_causal.value, rate * 1e-12, 1e-9 * rate);
  EXPECT_NEAR(s.mfu_causal.value, rate / 1e10, 1e-9);
  EXPECT_GT(s.mfu_noncausal.value, s.mfu_causal.value);
  EXPECT_NEAR(s.tokens_per_day.value, 512 * 86400 / step.summary.step.seconds(), 1);
}

// At the granularity of cells bubbles are the closed formula on every rank; finer ops idle less.
TEST(Bubble, IsTheFormulaOnEveryRank) {
  for (const auto& [kind, pp, n] : {std::tuple(ScheduleKind::k1F1B, 4, 8),
                                    std::tuple(ScheduleKind::kZB1P, 4, 8),
                                    std::tuple(ScheduleKind::kDualPipe, 4, 8)}) {
    const Plan plan = small_plan({.pp = pp, .dp = 2, .schedule = kind});
    const double formula = facts_of(kind).bubble(pp, {});
    for (const double b : unit_bubbles(program_spec(plan), Granularity::kCell)) {
      EXPECT_DOUBLE_EQ(b, formula) << name_of(kind);
    }
    for (const double b : unit_bubbles(program_spec(plan), Granularity::kOp)) {
      EXPECT_LE(b, formula + 1e-9) << name_of(kind);
    }
  }
}

}  // namespace
}  // namespace rehearse
