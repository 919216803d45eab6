#include "plan/program/memory.h"

#include <cmath>

#include <gtest/gtest.h>

#include "plan/program/op_work.h"
#include "plan/testing.h"

namespace rehearse {
namespace {

// The small model's weights by hand: see sim/gpu_work_test.cpp.
constexpr int64_t kDense = 38848;
constexpr int64_t kExperts = 36864;

TEST(Memory, WeightsOfARank) {
  const Plan plan = small_plan({.dp = 4, .ep = 4});
  const StageWeights w = stage_weights(plan, 0);
  EXPECT_EQ(w.dense, kDense);
  EXPECT_EQ(w.expert, kExperts / 4);
  // FP32: weights, gradients, and each rank's shard of two moments: dense over 4 ranks, experts
  // over none.
  const RankMemory m = rank_memory(plan, 0);
  EXPECT_EQ(m.parameters, Bytes(4 * (kDense + kExperts / 4)));
  EXPECT_EQ(m.gradients, m.parameters);
  EXPECT_EQ(m.optimizer, Bytes(8 * (kDense / 4 + kExperts / 4)));
}

TEST(Memory, FitsWhereTheDeviceHasWhatTheMostLoadedRankNeeds) {
  Plan plan = small_plan({.pp = 2});
  const Bytes need = std::max(rank_memory(plan, 0).total(), rank_memory(plan, 1).total());
  // On cores both ranks share the node's memory.
  EXPECT_EQ(device_need(plan), need * 2);
  plan.cluster.memory = need * 2;
  EXPECT_TRUE(fits_memory(plan));
  plan.cluster.memory = Bytes(need.count() * 2 - 1);
  EXPECT_FALSE(fits_memory(plan));
  plan.cluster.device = DeviceKind::kEmulated;
  plan.cluster.devices_per_node = 1;
  EXPECT_EQ(device_need(plan), need);
  EXPECT_TRUE(fits_memory(plan));
}

// Of layers recomputed whole one is there with all that it keeps while its backward runs; where
// weight gradients wait, all of them are until these are done.
TEST(Memory, RecomputedLayersAreThereWhileTheyAreUsed) {
  Plan plan = small_plan({.pp = 2});
  plan.cluster.device = DeviceKind::kGpu;
  plan.training.precision = Precision::kBf16;
  plan.training.recompute = {.norms = false, .up_projections = false, .activations = false};
  const auto activations = [&](bool full, ScheduleKind schedule) {
    plan.layout.schedule = schedule;
    plan.training.recompute.layer = full;
    return rank_memory(plan, 0).activations.count();
  };
  // Rank 0: two micro-batches in flight of two layers, whose inputs are 2 x 32 x 32 bytes.
  const int64_t input = 2 * 32 * 32;
  const KeptBytes moe = kept_bytes(Layers(plan.model.architecture),
                                   true,
                                   false,
                                   16,
                                   bytes_of(Precision::kBf16),
                                   gpu_recipe(plan));
  const int64_t layer = std::llround(32 * (moe.own + moe.gathered));
  EXPECT_EQ(activations(true, ScheduleKind::k1F1B), 2 * 2 * input + layer);
  // ZB1P holds as many, and behind the first Bi all of its two layers (the first one is dense).
  const int64_t kept = activations(false, ScheduleKind::kZB1P) / 2;
  EXPECT_GE(activations(true, ScheduleKind::kZB1P), kept + 2 * input);
  EXPECT_LE(activations(true, ScheduleKind::kZB1P), kept + 2 * 2 * input + layer);
}

TEST(Memory, EveryHeadHasLogits) {
  Plan plan = small_plan({});
  plan.cluster.device = DeviceKind::kGpu;
  plan.training.precision = Precision::kBf16;
  const int64_t one = rank_memory(plan, 0).activations.count();
  plan.model.architecture.mtp_depth = 1;
  const int64_t two = rank_memory(plan, 0).activations.count();
  const KeptBytes moe = kept_bytes(Layers(plan.model.architecture),
                                   true,
                                   false,
                                   16,
                                   bytes_of(Precision::kBf16),
                                   gpu_recipe(plan));
  // Its layer; its projection's inputs and norms' inputs; its head's norm; its logits.
  EXPECT_EQ(two - one,
            std::llround(32 * (moe.own + moe.gathered)) + 32 * 32 * (4 + 4 + 4) + 32 * 256 * 4);
}

}  // namespace
}  // namespace rehearse
