// A step whose work is done late: the same bits in any order that waits allow, and what is wrong
// with the order found.

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "runtime/devices/late/late_device.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

constexpr int64_t kLateSteps = 3;

struct Bits {
  std::vector<double> numbers;
  std::vector<float> weights;
  std::vector<int32_t> choices;
  bool operator==(const Bits&) const = default;
};

Bits bits_of(Trainer& trainer, const Plan& plan) {
  Bits bits;
  trainer.record_choices(true);
  for (int64_t i = 0; i < kLateSteps; ++i) {
    const StepLog log = trainer.step(i);
    bits.numbers.push_back(log.loss);
    bits.numbers.push_back(log.gradient_norm);
    bits.numbers.insert(bits.numbers.end(), log.mtp_losses.begin(), log.mtp_losses.end());
    bits.numbers.push_back(log.max_expert_load);
    for (int32_t d = 0; d < plan.layout.dp; ++d) {
      const auto choices = trainer.recorded_choices(plan.model.architecture.dense_layers(), d, 0);
      bits.choices.insert(bits.choices.end(), choices.begin(), choices.end());
    }
  }
  bits.numbers.push_back(trainer.validate(1));
  for (const StateKind kind :
       {StateKind::kWeights, StateKind::kFirstMoments, StateKind::kSecondMoments}) {
    for (const NamedTensor& t : trainer.ranks().state(kind)) {
      bits.weights.insert(bits.weights.end(), t.values.begin(), t.values.end());
    }
  }
  return bits;
}

Plan late_plan(Layout layout, Precision precision = Precision::kFp32) {
  Plan plan = small_plan(std::move(layout));
  plan.training.micro_batches = 8 / plan.layout.dp;
  plan.training.precision = precision;
  plan.cluster.devices_per_node = 2;  // EP4 spans nodes: tokens are forwarded
  plan.model.architecture.mtp_depth = 1;
  plan.training.mtp_loss = 0.5;
  plan.training.balance_loss = 0.01;
  plan.training.gradient_clip = 0.5;
  plan.training.ema = 0.9;
  return plan;
}

// A Trainer on a late device, and that device.
struct LateTrainer {
  LateTrainer(const Plan& plan, LateOptions options)
      : trainer(plan, test_text_path(), {.device = [&](const Plan& p, Communicator& c) {
                  auto made = std::make_unique<LateDevice>(p, c, options);
                  device = made.get();
                  return made;
                }}) {}
  LateDevice* device = nullptr;
  Trainer trainer;
};

Bits on_cores(const Plan& plan) {
  Trainer trainer(plan, test_text_path());
  return bits_of(trainer, plan);
}
Bits done_late(const Plan& plan, LateOptions options) {
  LateTrainer late(plan, options);
  return bits_of(late.trainer, plan);
}

class Late : public testing::TestWithParam<Layout> {};

TEST_P(Late, GivesTheSameBitsInAnyOrder) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp8}) {
    const Plan plan = late_plan(GetParam(), precision);
    const Bits want = on_cores(plan);
    for (const uint64_t seed : {0, 1, 2, 3}) {
      EXPECT_EQ(done_late(plan, {.seed = seed}), want) << "seed " << seed;
    }
  }
}

// A wait that makes a difference, lost: found wherever it stands.
TEST_P(Late, FindsALostWait) {
  const Plan plan = late_plan(GetParam());
  LateTrainer whole(plan, {});
  whole.trainer.step(0);
  const int64_t waits = whole.device->waits();
  ASSERT_GT(waits, 10);
  int64_t found = 0, tried = 0;
  for (int64_t i = 0; i < waits; i += std::max<int64_t>(1, waits / 23), ++tried) {
    LateTrainer late(plan, {.faults = {.lost_wait = i}});
    try {
      late.trainer.step(0);
    } catch (const ScheduleError& e) {
      ++found;
      const std::string error = e.what();
      EXPECT_TRUE(error.find("waits for nothing behind that") != std::string::npos ||
                  error.find("taken before it is sent") != std::string::npos)
          << error;
    }
  }
  EXPECT_EQ(found, tried);
}

TEST_P(Late, FindsAnEventThatIsNotRecorded) {
  const Plan plan = late_plan(GetParam());
  int found = 0;
  for (const int64_t op : {0, 5, 17, 40}) {
    LateTrainer late(plan, {.faults = {.lost_record = op}});
    try {
      late.trainer.step(0);
    } catch (const ScheduleError& e) {
      ++found;
      EXPECT_NE(std::string(e.what()).find("not recorded"), std::string::npos) << e.what();
    }
  }
  EXPECT_GE(found, 3);  // an op that nobody waits for needs no record
}

TEST_P(Late, FindsABufferThatIsFreedEarly) {
  const Plan plan = late_plan(GetParam());
  LateTrainer late(plan, {.faults = {.early_free = true}});
  EXPECT_THROW(late.trainer.step(0), ScheduleError);
}

INSTANTIATE_TEST_SUITE_P(
    Runtime,
    Late,
    testing::Values(Layout{},
                    Layout{.pp = 4, .schedule = ScheduleKind::k1F1B},
                    Layout{.pp = 2, .schedule = ScheduleKind::kInterleaved, .chunks = 2},
                    Layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kZB1P},
                    Layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe},
                    Layout{.pp = 4, .schedule = ScheduleKind::kDualPipe},
                    Layout{.pp = 2, .dp = 2, .schedule = ScheduleKind::kDualPipeV},
                    Layout{.dp = 4, .ep = 4},
                    Layout{.dp = 4, .ep = 2, .zero_stage = 0}),
    layout_name);

// What a plan may have beside its layout.
TEST(LateVariants, GiveTheSameBits) {
  const Layout layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe};
  std::vector<Plan> plans(4, late_plan(layout));
  plans[0].training.recompute = {.norms = false, .up_projections = false, .activations = false};
  plans[1].routing = Routing::kBalanced;
  Architecture& grouped = plans[2].model.architecture;
  grouped.attention = AttentionKind::kGrouped;
  grouped.kv_heads = grouped.heads / 2;
  grouped.head_norm = HeadNorm::kPerHead;
  plans[3] = late_plan(layout, Precision::kBf16);
  plans[3].training.moments = Moments::kBf16;
  plans[3].model.architecture.q_lora = std::nullopt;
  for (const Plan& plan : plans) {
    const Bits want = on_cores(plan);
    for (const uint64_t seed : {5, 6}) EXPECT_EQ(done_late(plan, {.seed = seed}), want);
  }
}

// Rows that find no room: nothing follows from the step, and it is repeated with more.
TEST(LateOverflow, AStepIsAppliedOnceAndWhole) {
  for (const Layout& layout : {Layout{}, Layout{.pp = 2, .dp = 2, .ep = 2}}) {
    const Plan plan = late_plan(layout);
    const Bits want = on_cores(plan);
    LateTrainer late(plan, {.seed = 4, .room = 0.2});
    EXPECT_EQ(bits_of(late.trainer, plan), want);
    EXPECT_GE(late.device->grown(), 1);
  }
}

}  // namespace
}  // namespace rehearse
