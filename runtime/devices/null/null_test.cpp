// A device and a precision from outside: what a new one needs is its own folder, or a row.

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "runtime/devices/null/null_device.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

// Every op of every schedule is enqueued, nothing is computed, and no op takes any time.
TEST(NullDevice, TrainsNothingInNoTime) {
  for (const Layout& layout :
       {Layout{},
        Layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe},
        Layout{.pp = 4, .schedule = ScheduleKind::kZB1P}}) {
    Plan plan = small_plan(layout);
    plan.model.architecture.mtp_depth = 1;
    Trainer trainer(plan, test_text_path(), {.device = [](const Plan& p, Communicator& c) {
                      return std::make_unique<NullDevice>(p, c);
                    }});
    const std::vector<NamedTensor> before = trainer.ranks().state(StateKind::kWeights);
    const StepLog log = trainer.step(0);
    EXPECT_EQ(log.loss, 0);
    EXPECT_EQ(log.gradient_norm, 0);
    EXPECT_EQ(trainer.last_timeline().step(), Duration());
    EXPECT_GT(log.memory, Bytes(0));
    const std::vector<NamedTensor> after = trainer.ranks().state(StateKind::kWeights);
    ASSERT_EQ(after.size(), before.size());
    for (size_t i = 0; i < after.size(); ++i) EXPECT_EQ(after[i].values, before[i].values);
  }
}

// A third row: activations in BF16, weights in FP32 without masters.
PrecisionRecipe narrow_activations() {
  return {.products = {.activation = DType::kBf16, .gradient = DType::kBf16},
          .kept = DType::kBf16,
          .sent = DType::kBf16};
}

TEST(Recipe, AThirdRowTrains) {
  struct Run {
    std::vector<double> losses;
    int64_t memory = 0;
  };
  const auto run = [](const Layout& layout, std::optional<PrecisionRecipe> recipe) {
    Plan plan = small_plan(layout);
    plan.training.precision = Precision::kFp32;
    Trainer trainer(plan, test_text_path(), {.recipe = recipe});
    Run r;
    for (int64_t i = 0; i < 4; ++i) {
      const StepLog log = trainer.step(i);
      r.losses.push_back(log.loss);
      r.memory = log.memory.count();
    }
    const Stage& s = trainer.ranks().stage(0, 0, 0);
    EXPECT_EQ(s.weights.arena(Arena::kDense).type(), DType::kFp32);
    EXPECT_TRUE(s.master[0].empty());
    return r;
  };
  for (const Layout& layout :
       {Layout{}, Layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe}}) {
    const Run exact = run(layout, std::nullopt);
    const Run narrow = run(layout, narrow_activations());
    EXPECT_NE(narrow.losses, exact.losses) << "nothing was rounded";
    for (size_t i = 0; i < exact.losses.size(); ++i) {
      EXPECT_NEAR(narrow.losses[i], exact.losses[i], 0.01 * exact.losses[i]);
    }
    EXPECT_LT(narrow.memory, exact.memory);
  }
}

}  // namespace
}  // namespace rehearse
