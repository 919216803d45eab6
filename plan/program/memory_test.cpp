#include "plan/program/memory.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace rehearse
