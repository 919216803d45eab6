#include "sim/replay.h"

#include <set>

#include <gtest/gtest.h>

#include "base/random.h"
#include "plan/testing.h"

namespace rehearse {
namespace {

RecordedStep random_step(const Plan& plan, uint64_t seed) {
  const Architecture& a = plan.model.architecture;
  RecordedStep step{.shape = {.micro_batches = plan.layout.dp * plan.training.micro_batches,
                              .layers = a.layers - a.dense_layers(),
                              .tokens = plan.micro_batch_tokens(),
                              .active = a.active_experts,
                              .experts = a.experts},
                    .number = 0,
                    .choices = {}};
  Random random(seed);
  const int64_t tokens = step.shape.micro_batches * step.shape.layers * step.shape.tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    std::set<uint16_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < a.active_experts) {
      // Skewed: the least of two.
      chosen.insert(
          static_cast<uint16_t>(std::min(random.next() % static_cast<uint64_t>(a.experts),
                                         random.next() % static_cast<uint64_t>(a.experts))));
    }
    step.choices.insert(step.choices.end(), chosen.begin(), chosen.end());
  }
  return step;
}

Plan plan_of(int64_t dp, int64_t ep) {
  Plan plan = small_plan({.dp = dp, .ep = ep});
  plan.cluster.devices_per_node = 2;
  plan.cluster.nodes = dp / 2;
  plan.cluster.node_link = {BytesPerSecond(1e9), Duration::microseconds(1)};
  plan.cluster.network = {BytesPerSecond(1e8), Duration::microseconds(2)};
  return plan;
}

// Token by token: to every node with one of its experts but its own over the network, and within
// nodes from where it arrives to every other rank with one.
TEST(Replay, BytesAreThoseOfAPlainCount) {
  for (const auto& [dp, ep] : {std::pair<int64_t, int64_t>{4, 4}, {8, 4}, {8, 8}}) {
    const Plan plan = plan_of(dp, ep);
    const RecordedStep step = random_step(plan, 5);
    const Program program = build_program(plan);
    const std::optional<Calibration> none;
    const int64_t per_rank = plan.model.architecture.experts / ep;
    for (const bool placed : {false, true}) {
      ReplayedRouting routing{.step = &step};
      if (placed) {
        // Experts the other way round.
        Placement p = Placement::in_order(plan.model.architecture.experts, ep);
        std::ranges::reverse(p.expert_of);
        routing.placements = {p};
      }
      TrafficMatrix traffic(ep);
      const auto layers = LayerReplayer(plan, program, none).layers(step, routing, &traffic);
      double between = 0, all = 0;
      for (int64_t from = 0; from < ep; ++from) {
        for (int64_t to = 0; to < ep; ++to) between += traffic.at(from, to);
      }
      for (const LayerReplay& l : layers) all += l.ib_bytes + l.nvlink_bytes;
      EXPECT_NEAR(between * static_cast<double>(dp / ep), all, 1e-9 * all);
      // Dispatch and what goes its way send other bytes than come back.
      EXPECT_NE(traffic.at(0, 1), traffic.at(1, 0));
      ASSERT_EQ(layers.size(), static_cast<size_t>(step.shape.layers));
      double message = 0;
      for (const OpKind kind : {OpKind::kDispatch, OpKind::kCombine}) {
        for (const Pass pass : {Pass::kForward, Pass::kInput}) {
          message += static_cast<double>(exchange_message(plan, kind, pass).count());
        }
      }
      for (int64_t l = 0; l < step.shape.layers; ++l) {
        int64_t across = 0, within = 0;
        for (int64_t m = 0; m < step.shape.micro_batches; ++m) {
          const int64_t rank = m / plan.training.micro_batches;
          const int64_t me = rank % ep;
          const auto of = step.of(m, l);
          for (size_t t = 0; t < of.size(); t += 2) {
            std::set<int64_t> nodes, ranks;
            for (size_t k = t; k < t + 2; ++k) {
              const int64_t slot =
                  placed ? plan.model.architecture.experts - 1 - of[k] : int64_t{of[k]};
              ranks.insert(slot / per_rank);
              nodes.insert(slot / per_rank / 2);
            }
            for (const int64_t n : nodes) across += n != me / 2;
            // Through the rank of the sender's position on each node.
            for (const int64_t r : ranks) within += r != r / 2 * 2 + me % 2;
          }
        }
        EXPECT_DOUBLE_EQ(layers[static_cast<size_t>(l)].ib_bytes,
                         static_cast<double>(across) * message);
        EXPECT_DOUBLE_EQ(layers[static_cast<size_t>(l)].nvlink_bytes,
                         static_cast<double>(within) * message);
      }
    }
  }
}

TEST(Replay, FiguresOfLoads) {
  const LoadShape even = load_shape({5, 5, 5, 5});
  EXPECT_DOUBLE_EQ(even.max, 1);
  EXPECT_NEAR(even.gini, 0, 1e-12);
  const LoadShape one = load_shape({0, 0, 0, 8});
  EXPECT_DOUBLE_EQ(one.max, 4);
  EXPECT_DOUBLE_EQ(one.gini, 0.75);
  EXPECT_DOUBLE_EQ(one.starving, 0.75);
  EXPECT_DOUBLE_EQ(load_shape({0, 0}).max, 1);
}

TEST(Replay, GroupLimitsAreKept) {
  const Plan plan = plan_of(4, 4);
  const RecordedStep step = random_step(plan, 9);
  const RecordedStep tight = limited(step, 4, 1, 1);
  for (size_t t = 0; t < tight.choices.size(); t += 2) {
    EXPECT_EQ(tight.choices[t] / 2, tight.choices[t + 1] / 2);
    EXPECT_NE(tight.choices[t], tight.choices[t + 1]);
  }
  EXPECT_EQ(limited(step, 4, 2, 1).choices, step.choices);  // two experts are of two groups at most
}

}  // namespace
}  // namespace rehearse
