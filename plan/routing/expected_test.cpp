#include "plan/routing/expected.h"

#include <numeric>

#include <gtest/gtest.h>

#include "plan/testing.h"

namespace rehearse {
namespace {

Plan plan_with(int64_t experts, int64_t active, int64_t groups, int64_t kept, int64_t ep) {
  Plan plan = small_plan({.dp = ep, .ep = ep});
  Architecture& a = plan.model.architecture;
  a.experts = experts;
  a.active_experts = active;
  a.groups = groups;
  a.kept_groups = kept;
  plan.training.micro_batch_size = 1;
  plan.training.sequence_length = 4096;
  plan.cluster.nodes = ep;
  plan.cluster.devices_per_node = 8;
  return plan;
}

ExpectedReach reach_of(const Plan& plan) {
  return expected_reach(plan.model.architecture, ExpertGroup(plan, 0, 0));
}

// 8 of 128 experts on 8 ranks of 16: a rank is missed with probability C(112, 8) / C(128, 8), the
// product of (112 - i) / (128 - i) for i from 0 to 7.
TEST(Expected, WithoutGroupsAClosedForm) {
  double missed = 1;
  for (int i = 0; i < 8; ++i) missed *= (112.0 - i) / (128 - i);
  const ExpectedReach one_node = reach_of(plan_with(128, 8, 1, 1, 8));
  EXPECT_NEAR(one_node.rank, 1 - missed, 1e-12);
  EXPECT_NEAR(8 * one_node.rank, 5.339, 1e-3);
  EXPECT_EQ(one_node.node, 1);
  // All groups kept are none; two nodes of 8 ranks: C(64, 8) / C(128, 8).
  missed = 1;
  for (int i = 0; i < 8; ++i) missed *= (64.0 - i) / (128 - i);
  EXPECT_NEAR(reach_of(plan_with(128, 8, 4, 4, 16)).node, 1 - missed, 1e-12);
}

// One kept group of four, a node each: one node of four whatever is drawn. One active expert: one
// rank.
TEST(Expected, GroupsThatLeaveNoChoice) {
  Plan plan = plan_with(32, 4, 4, 1, 32);
  EXPECT_NEAR(reach_of(plan).node, 0.25, 1e-12);
  EXPECT_NEAR(reach_of(plan).rank, 4.0 / 32, 1e-12);
  EXPECT_NEAR(reach_of(plan_with(32, 1, 4, 2, 32)).rank, 1.0 / 32, 1e-12);
  // Two kept groups of four, two choices of two experts each: by sums of the two best scores.
  plan = plan_with(256, 8, 8, 4, 64);
  EXPECT_NEAR(8 * reach_of(plan).node, 3.973, 4 * 0.0025);  // drawn 200,000 times: 3.9726
  EXPECT_NEAR(64 * reach_of(plan).rank, 7.484, 0.02);       // 7.4843
}

// Ranks are alike, rows are conserved, and rounding is of one token, for counts that do not divide.
TEST(Expected, RanksAreAlikeAndRowsAddUp) {
  for (const auto dispatcher :
       {Dispatcher::kTwoHop, Dispatcher::kAllToAll, Dispatcher::kAllGather}) {
    for (const auto& [experts, active, ep, tokens] :
         {std::tuple<int64_t, int64_t, int64_t, int64_t>{384, 8, 32, 4096},
          {384, 8, 16, 4097},
          {96, 5, 32, 333},
          {60, 4, 4, 1},
          {8, 2, 8, 4096}}) {
      Plan plan = plan_with(experts, active, 1, 1, ep);
      plan.layout.dispatcher = dispatcher;
      plan.training.sequence_length = tokens;
      const ExpertGroup group(plan, 0, 0);
      const GroupLoad load = expected_load(plan, group);
      EXPECT_TRUE(load.symmetric);
      ASSERT_EQ(load.members.size(), static_cast<size_t>(ep));
      for (const MemberLoad& m : load.members) {
        EXPECT_EQ(m, load.members.front());
        EXPECT_EQ(std::accumulate(m.expert_rows.begin(), m.expert_rows.end(), int64_t{0}),
                  tokens * active);
        const auto [least, most] = std::minmax_element(m.expert_rows.begin(), m.expert_rows.end());
        EXPECT_LE(*most - *least, 1);
      }
      const ExchangeTokens& x = *load.members.front().exchange;
      EXPECT_EQ(x.sent, x.received);
      const ExpectedReach reach = reach_of(plan);
      const double copies = dispatcher == Dispatcher::kAllToAll
                                ? static_cast<double>(active)
                                : reach.rank * static_cast<double>(ep);
      EXPECT_NEAR(static_cast<double>(x.arrived), copies * static_cast<double>(tokens), 0.5);
      // Every flow has its mirror image, all of one size.
      for (const auto& flows : {load.flows.across, load.flows.within}) {
        for (const ExchangeFlow& f : flows) {
          EXPECT_EQ(f.tokens, flows.front().tokens);
          EXPECT_NE(std::find(flows.begin(), flows.end(), ExchangeFlow{f.to, f.from, f.tokens}),
                    flows.end());
        }
      }
    }
  }
}

}  // namespace
}  // namespace rehearse
