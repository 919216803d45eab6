#include "plan/legal.h"

#include <algorithm>
#include <map>
#include <optional>

#include <gtest/gtest.h>

#include "plan/testing.h"

namespace rehearse {
namespace {

// The settings that reasons speak of, in their order.
std::vector<std::string> settings(const Reasons& reasons) {
  std::vector<std::string> list;
  for (const Reason& r : reasons) list.push_back(r.setting);
  return list;
}
using List = std::vector<std::string>;

Reasons of_layout(const Layout& layout) {
  const Plan plan = small_plan({});
  return why_not(plan.model.architecture, plan.cluster, layout);
}

TEST(Legal, LayoutsOfTheSmallModel) {
  // 4 layers, 8 experts, one node of 64 devices.
  EXPECT_EQ(of_layout({.pp = 4, .dp = 8, .ep = 4}), Reasons{});
  EXPECT_EQ(of_layout({.pp = 2, .schedule = ScheduleKind::kDualPipe}), Reasons{});
  EXPECT_EQ(settings(of_layout({.pp = 5})), List{"layout.pp"});
  EXPECT_EQ(settings(of_layout({.pp = 3, .schedule = ScheduleKind::kDualPipe})), List{"layout.pp"});
  EXPECT_EQ(settings(of_layout({.schedule = ScheduleKind::kInterleaved, .chunks = 5})),
            (List{"layout.chunks", "layout.pp"}));
  EXPECT_EQ(settings(of_layout({.dp = 6, .ep = 4})), List{"layout.ep"});
  EXPECT_EQ(settings(of_layout({.dp = 3, .ep = 3})), List{"layout.ep"});
  EXPECT_EQ(settings(of_layout({.pp = 2, .dp = 64})), List{"layout.pp"});
  EXPECT_EQ(settings(of_layout({.pp = 2, .layers_per_stage = {1, 2}})),
            List{"layout.layers_per_stage"});
  // Several at once, each said.
  EXPECT_EQ(settings(of_layout({.pp = 5, .dp = 30, .ep = 4})),
            (List{"layout.pp", "layout.ep", "layout.pp"}));
}

TEST(Legal, ReasonsSayWhatWouldBeRight) {
  EXPECT_EQ(of_layout({.pp = 5}).front().message,
            "5 pipeline stages for a model of 4 layers: every stage needs at least one; use pp of "
            "at most 4");
}

// EP groups lie on nodes alike: of 4 devices per node, 6 ranks of a group do not; nor do groups of
// 2 when each node has 3 devices.
TEST(Legal, ExpertGroupsSpreadEvenlyOverNodes) {
  Plan plan = small_plan({});
  plan.model.architecture.experts = 24;
  plan.cluster.nodes = 100;
  for (const int64_t devices : {1, 2, 3, 4, 6, 8}) {
    plan.cluster.devices_per_node = devices;
    for (const int64_t ep : {1, 2, 3, 4, 6, 8, 12}) {
      const Layout layout{.pp = 2, .dp = 24, .ep = ep};
      // By looking at every group.
      bool even = true;
      std::optional<size_t> nodes_of_first;
      for (int64_t first = 0; first < 48; first += ep) {
        std::map<int64_t, int64_t> members;
        for (int64_t r = first; r < first + ep; ++r) ++members[r / devices];
        for (const auto& [node, n] : members) even &= n == members.begin()->second;
        if (!nodes_of_first) nodes_of_first = members.size();
        even &= members.size() == *nodes_of_first;
      }
      const Reasons reasons = why_not(plan.model.architecture, plan.cluster, layout);
      EXPECT_EQ(reasons.empty(), even) << devices << " devices, EP" << ep;
    }
  }
}

TEST(Legal, StepsOfALayout) {
  const Layout dualpipe{.pp = 4, .dp = 4, .schedule = ScheduleKind::kDualPipe};
  Training t{.micro_batches = 8, .micro_batch_size = 2, .sequence_length = 16};
  EXPECT_EQ(why_not(dualpipe, t), Reasons{});
  t.micro_batches = 6;
  EXPECT_EQ(settings(why_not(dualpipe, t)), List{"training.micro_batches"});
  t.micro_batches = 8;
  // A sequence is shared out in two parts for each rank, an early one and a late one.
  const Layout context{.dp = 2, .cp = 4};
  EXPECT_EQ(why_not(context, t), Reasons{});
  t.sequence_length = 12;
  EXPECT_EQ(settings(why_not(context, t)), List{"training.sequence_length"});
  t.sequence_length = 4;
  EXPECT_NE(why_not(context, t).front().message.find("do not divide into 8 parts"),
            std::string::npos);
  // And over tensor-parallel ranks, unless each has all of it.
  Layout tensor{.dp = 2, .tp = 8};
  EXPECT_EQ(settings(why_not(tensor, t)), List{"training.sequence_length"});
  tensor.sequence_parallel = false;
  EXPECT_EQ(why_not(tensor, t), Reasons{});
}

TEST(Legal, WhatDevicesCannotCompute) {
  Plan plan = small_plan({});
  EXPECT_EQ(why_not(plan), Reasons{});
  for (const auto& [layout, setting] :
       {std::pair{Layout{.cp = 2}, "layout.cp"},
        {Layout{.tp = 2}, "layout.tp"},
        {Layout{.dp = 2, .etp = 2}, "layout.etp"},
        {Layout{.zero_stage = 2}, "layout.zero_stage"},
        {Layout{.dispatcher = Dispatcher::kAllToAll}, "layout.dispatcher"},
        {Layout{.overlap_all_to_all = true}, "layout.overlap_all_to_all"}}) {
    EXPECT_EQ(settings(why_not(small_plan(layout))), List{setting});  // on cores
  }
  plan = small_plan({.dp = 2});
  plan.cluster.device = DeviceKind::kGpu;
  EXPECT_EQ(settings(why_not(plan)), List{"training.precision"});  // FP32
  plan.training.precision = Precision::kFp8;
  EXPECT_EQ(settings(why_not(plan)), List{"training.precision"});  // no peak_fp8
  plan.cluster.peak_fp8 = FlopsPerSecond(1e12);
  EXPECT_EQ(why_not(plan), Reasons{});
}

TEST(Legal, MomentsInBf16WantShortMemories) {
  Plan plan = small_plan({});
  plan.training.moments = Moments::kBf16;
  EXPECT_TRUE(why_not(plan.layout, plan.training).empty());
  plan.training.beta2 = 0.999;
  const Reasons why = why_not(plan.layout, plan.training);
  ASSERT_EQ(why.size(), 1u);
  EXPECT_EQ(why.front().setting, "training.moments");
  plan.training.moments = Moments::kAuto;
  EXPECT_TRUE(why_not(plan.layout, plan.training).empty());
}

TEST(Legal, BatchesOfAPhase) {
  const Layout layout{.pp = 2, .dp = 2, .cp = 4, .schedule = ScheduleKind::kDualPipe};
  const Training t{.micro_batch_size = 2, .sequence_length = 16};
  // 8 ranks in fours hold two sequences' parts each: 4 at a time.
  EXPECT_EQ(micro_batches_of(layout, t, 32).count, 8);
  EXPECT_EQ(micro_batches_of(layout, t, 32).why_not, "");
  EXPECT_NE(micro_batches_of(layout, t, 33).why_not.find("use a multiple of 4"), std::string::npos);
  EXPECT_NE(micro_batches_of(layout, t, 12).why_not.find("at least 4; found 3"), std::string::npos);
  EXPECT_NE(micro_batches_of(layout, t, 4'000'000).why_not.find("at most"), std::string::npos);
}

TEST(Legal, MatricesDivideOverTensorParallelRanks) {
  Plan plan = small_plan({});
  plan.cluster.device = DeviceKind::kGpu;
  Architecture a = plan.model.architecture;  // 2 heads; FFNs of 48, experts of 16
  const auto reasons = [&](const Layout& l) { return settings(why_not(a, plan.cluster, l)); };
  EXPECT_EQ(reasons({.dp = 2, .tp = 2}), List{});
  EXPECT_EQ(reasons({.tp = 4}), List{"layout.tp"});
  EXPECT_NE(why_not(a, plan.cluster, {.tp = 4})
                .front()
                .message.find("tp of 4 does not divide the model's 2 attention heads"),
            std::string::npos);
  EXPECT_EQ(reasons({.dp = 4, .ep = 2, .etp = 2}), List{});
  EXPECT_EQ(reasons({.dp = 12, .etp = 3}), List{"layout.etp"});
  EXPECT_EQ(reasons({.dp = 2, .ep = 4, .tp = 2}), List{}) << "EP over DP and TP";
  EXPECT_EQ(reasons({.dp = 2, .ep = 8, .tp = 2}), List{"layout.ep"});
  EXPECT_EQ(reasons({.dp = 2, .tp = 2, .sequence_parallel = false}),
            List{"layout.sequence_parallel"});
  EXPECT_EQ(reasons({.schedule = ScheduleKind::kZB1P, .overlap_all_to_all = true}),
            List{"layout.overlap_all_to_all"});
  a.attention = AttentionKind::kGrouped;
  a.heads = 8;
  a.kv_heads = 2;
  EXPECT_EQ(reasons({.dp = 2, .tp = 2}), List{});
  // More ranks than can be counted.
  const int64_t many = 1 << 21;
  const Reasons far = why_not(a, plan.cluster, {.pp = 4, .dp = many, .tp = many, .cp = many});
  EXPECT_TRUE(std::ranges::any_of(far, [](const Reason& r) {
    return r.message.find("9223372036854775807 ranks") != std::string::npos;
  }));
  EXPECT_NE(why_not(a, plan.cluster, {.tp = 4}).front().message.find("2 key-value heads"),
            std::string::npos);
}

TEST(Legal, LearnedPositionsEnd) {
  Plan plan = small_plan({});
  plan.cluster.device = DeviceKind::kGpu;
  plan.training.precision = Precision::kBf16;
  plan.model.architecture.positions = 16;
  EXPECT_EQ(why_not(plan), Reasons{});
  plan.training.sequence_length = 32;
  EXPECT_EQ(settings(why_not(plan)), List{"training.sequence_length"});
}

TEST(Legal, EmptyStagesStandAtTheEnds) {
  Plan plan = small_plan({});
  const Architecture& a = plan.model.architecture;  // 4 layers
  const auto reasons = [&](std::vector<int64_t> layers) {
    const auto pp = static_cast<int64_t>(layers.size());
    return settings(why_not(a, plan.cluster, {.pp = pp, .layers_per_stage = std::move(layers)}));
  };
  EXPECT_EQ(reasons({0, 1, 1, 1, 1, 0}), List{});
  EXPECT_EQ(reasons({2, 2, 0}), List{});
  EXPECT_EQ(reasons({2, 0, 2}), List{"layout.layers_per_stage"});
  EXPECT_EQ(reasons({0, 0, 2, 1, 1, 0}), (List{"layout.layers_per_stage"}));
}

}  // namespace
}  // namespace rehearse
