// A model trained by the GPU's kernels under imitation, beside the same on cores.

#include "runtime/devices/cuda/gpu_device.h"

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "runtime/devices/cpu/cpu_device.h"
#include "runtime/devices/cuda/gpu/imitated_gpu.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

// Two layers, one of them with experts; 32 tokens a micro-batch. Every instruction of every thread
// is imitated: small is enough.
Plan gpu_plan() {
  Plan plan = small_plan({});
  Architecture& a = plan.model.architecture;
  a.layers = 2;
  plan.layout.layers_per_stage = {2};
  plan.training.micro_batches = 1;
  plan.training.balance_loss = 0.01;
  plan.training.gradient_clip = 0.5;
  plan.training.ema = 0.9;
  return plan;
}

struct Trained {
  std::vector<double> losses, norms;
  std::vector<std::vector<int64_t>> loads;
  std::vector<NamedTensor> weights;
};
Trained run(const Plan& plan, TrainerParts parts, int64_t steps) {
  Trainer trainer(plan, test_text_path(), std::move(parts));
  Trained t;
  for (int64_t i = 0; i < steps; ++i) {
    const StepLog log = trainer.step(i);
    t.losses.push_back(log.loss);
    for (const double l : log.mtp_losses) t.losses.push_back(l);
    t.norms.push_back(log.gradient_norm);
    const auto load = trainer.last_results().load_of(1);
    t.loads.emplace_back(load.begin(), load.end());
  }
  t.weights = trainer.ranks().state(StateKind::kWeights);
  return t;
}
TrainerParts card() {
  return {.device = [](const Plan& p, Communicator& c) {
    return std::make_unique<GpuDevice>(p, c, std::make_unique<ImitatedGpu>(), rope_table(p));
  }};
}

// share: of a value, that its two may differ by.
void expect_alike(const Plan& plan, int64_t steps, double share) {
  const Trained card_run = run(plan, card(), steps);
  const Trained cores = run(plan, {}, steps);
  for (size_t i = 0; i < cores.losses.size(); ++i) {
    EXPECT_NEAR(card_run.losses[i], cores.losses[i], share * cores.losses[i]) << i;
  }
  for (size_t i = 0; i < cores.norms.size(); ++i) {
    EXPECT_NEAR(card_run.norms[i], cores.norms[i], 20 * share * cores.norms[i]) << i;
  }
  EXPECT_EQ(card_run.loads.front(), cores.loads.front());
}

TEST(GpuDevice, TrainsWithLatentAttentionAndMtp) {
  Plan plan = gpu_plan();
  plan.model.architecture.mtp_depth = 1;
  plan.training.micro_batches = 2;
  expect_alike(plan, 3, 1e-5);
}

TEST(GpuDevice, GivesTheSameBitsAgain) {
  const Plan plan = gpu_plan();
  const Trained first = run(plan, card(), 2);
  const Trained second = run(plan, card(), 2);
  EXPECT_EQ(second.losses, first.losses);
  EXPECT_EQ(second.norms, first.norms);
  for (size_t i = 0; i < first.weights.size(); ++i) {
    EXPECT_EQ(second.weights[i].values, first.weights[i].values) << first.weights[i].name;
  }
}

// Rows that find no room: the step is repeated with more, and all is as if there had been.
TEST(GpuDevice, AStepWithoutRoomIsRepeated) {
  const Plan plan = gpu_plan();
  GpuDevice* device = nullptr;
  Trainer cramped(plan, test_text_path(), {.device = [&](const Plan& p, Communicator& c) {
                    auto made = std::make_unique<GpuDevice>(
                        p, c, std::make_unique<ImitatedGpu>(), rope_table(p), 0.3);
                    device = made.get();
                    return made;
                  }});
  const StepLog log = cramped.step(0);
  EXPECT_GT(device->room(), 0.3) << "all found room: a weak test";
  const Trained roomy = run(plan, card(), 1);
  EXPECT_EQ(log.loss, roomy.losses.front());
  EXPECT_EQ(log.gradient_norm, roomy.norms.front());
  const std::vector<NamedTensor> weights = cramped.ranks().state(StateKind::kWeights);
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_EQ(weights[i].values, roomy.weights[i].values) << weights[i].name;
  }
}

TEST(GpuDevice, TrainsWithGroupedHeads) {
  Plan plan = gpu_plan();
  Architecture& a = plan.model.architecture;
  a.attention = AttentionKind::kGrouped;
  a.heads = 4;
  a.kv_heads = 2;
  a.head_norm = HeadNorm::kPerHead;
  a.score = ScoreFunction::kSoftmax;
  a.expert_bias = false;
  expect_alike(plan, 2, 1e-5);
}

TEST(GpuDevice, TrainsInBf16) {
  Plan plan = gpu_plan();
  plan.training.precision = Precision::kBf16;
  plan.training.moments = Moments::kBf16;
  expect_alike(plan, 2, 1e-3);
}

TEST(GpuDevice, TrainsOnForcedChoices) {
  Plan plan = gpu_plan();
  plan.routing = Routing::kBalanced;
  expect_alike(plan, 2, 1e-5);
}

// Gradients of the first step, every parameter's, within a ten thousandth of its largest.
TEST(GpuDevice, GradientsAreThoseOfCores) {
  Plan plan = gpu_plan();
  plan.model.architecture.mtp_depth = 1;
  const auto gradients = [&](TrainerParts parts) {
    Trainer trainer(plan, test_text_path(), std::move(parts));
    trainer.probe();
    return trainer.ranks().state(StateKind::kGradients);
  };
  const std::vector<NamedTensor> cores = gradients({});
  const std::vector<NamedTensor> on_card = gradients(card());
  ASSERT_EQ(on_card.size(), cores.size());
  for (size_t i = 0; i < cores.size(); ++i) {
    float most = 0;
    for (const float g : cores[i].values) most = std::max(most, std::abs(g));
    for (size_t j = 0; j < cores[i].values.size(); ++j) {
      ASSERT_NEAR(on_card[i].values[j], cores[i].values[j], 1e-4f * most) << cores[i].name;
    }
  }
}

}  // namespace
}  // namespace rehearse
