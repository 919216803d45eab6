// Plans drawn at random: folded, memoised and whole simulations agree to the byte.

#include "sim/folding.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "plan/legal.h"
#include "plan/testing.h"
#include "sim/in_step.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

// Of 8 layers on 1 to 4 pipeline ranks, nothing of which is a round number.
class RandomPlans {
 public:
  explicit RandomPlans(uint64_t seed) : random_(seed) {}

  Plan next(bool oversubscribed) {
    for (;;) {
      Plan plan = draw(oversubscribed);
      if (why_not(plan).empty()) return plan;
    }
  }

 private:
  template <typename T>
  T one_of(std::vector<T> values) {
    return values[random_.next() % values.size()];
  }

  Plan draw(bool oversubscribed) {
    const auto ep = one_of<int64_t>({1, 2, 4, 8});
    const auto schedule = one_of<ScheduleKind>({ScheduleKind::k1F1B,
                                                ScheduleKind::kZB1P,
                                                ScheduleKind::kInterleaved,
                                                ScheduleKind::kDualPipe,
                                                ScheduleKind::kDualPipeV});
    Plan plan = small_plan({});
    plan.model.architecture.layers = 8;
    plan.model.architecture.hidden = 256;
    Layout& l = plan.layout;
    l = {.pp = one_of<int64_t>({1, 2, 4}),
         .dp = ep * one_of<int64_t>({1, 2, 3}),
         .ep = ep,
         .tp = oversubscribed ? 1 : one_of<int64_t>({1, 1, 2}),
         .schedule = schedule,
         .chunks = schedule == ScheduleKind::kInterleaved ? 2 : 1,
         .zero_stage = one_of<int64_t>({0, 1, 2, 3}),
         .dispatcher = one_of<Dispatcher>(
             {Dispatcher::kTwoHop, Dispatcher::kAllToAll, Dispatcher::kAllGather})};
    l.overlap_all_to_all = ep > 1 && schedule == ScheduleKind::k1F1B && random_.next() % 3 == 0;
    l.layers_per_stage = even_layers(8, l.stages());
    plan.training.micro_batches = l.pp * one_of<int64_t>({2, 4, 6});
    plan.training.sequence_length = one_of<int64_t>({500, 512, 1000});
    plan.training.precision = one_of<Precision>({Precision::kBf16, Precision::kFp8});
    const auto per_node = one_of<int64_t>({1, 2, 4});
    const int64_t nodes = (l.world() + per_node - 1) / per_node;
    const auto number = [&](std::vector<std::string> values) { return one_of(std::move(values)); };
    std::string text =
        "name: c\nnodes: " + std::to_string(nodes) +
        "\ndevices_per_node: " + std::to_string(per_node) +
        "\ndevice: {kind: gpu, peak: " + number({"1", "7", "100"}) +
        " TFLOP/s, peak_fp8: 200 TFLOP/s, memory_bandwidth: " + number({"3", "3.35", "0.1"}) +
        " TB/s, memory: 8 GB, sms: 132" +
        number({"", ", copy_per_sm: 1 GB/s", ", copy_per_sm: 15.55 GB/s"}) + "}\n" +
        "node_link: {bandwidth: " + number({"3", "10", "33"}) +
        " GB/s, latency: " + number({"0", "3.33"}) +
        " us}\nnetwork:\n  bandwidth: " + number({"1", "7", "4.7"}) +
        " GB/s\n  latency: 2 us\n  fabric: {";
    text += oversubscribed
                ? "kind: fat_tree, switch_ports: 16, oversubscription: " + number({"2", "3"})
                : "kind: single_switch";
    text += ", switch_latency: " + number({"0", "0.45"}) + " us}\n";
    plan.cluster = parse_cluster(text, "c.yaml");
    return plan;
  }

  Random random_;
};

std::string text_of(const Plan& plan, const SimulateOptions& options) {
  const Program program = build_program(plan);
  return print_timeline(program, simulate(plan, program, std::nullopt, options).timeline);
}

TEST(Folding, RandomPlansAgreeToTheByte) {
  RandomPlans plans(1);
  int folded = 0;
  for (int i = 0; i < 200; ++i) {
    const Plan plan = plans.next(/*oversubscribed=*/false);
    const Program program = build_program(plan);
    const Prediction one = simulate(plan, program, std::nullopt, {.fold = true});
    const Prediction all = simulate(plan, program, std::nullopt, {.memoise = false});
    folded += one.ranks.slots() < all.ranks.slots();
    ASSERT_EQ(print_timeline(program, one.timeline), print_timeline(program, all.timeline))
        << "plan " << i;
  }
  EXPECT_GT(folded, 100);
}

// Ranks in step under links that are shared: their flows as one, and one by one.
TEST(Folding, RandomPlansOverSharedLinksAgreeToTheByte) {
  RandomPlans plans(2);
  for (int i = 0; i < 100; ++i) {
    const Plan plan = plans.next(/*oversubscribed=*/true);
    ASSERT_EQ(text_of(plan, {}), text_of(plan, {.memoise = false})) << "plan " << i;
  }
}

// 16 ranks of a stage on nodes of one, leaf switches of 6 (8 ports, oversubscription 3): stage 0
// stands on leaves 0 (ranks 0 to 5), 1 and 2 (12 to 15), stage 1 on 2 (16, 17), 3, 4 and 5 (30,
// 31). Data ranks are in step where both their ranks sit on one leaf: bounds at 6 and 12 of stage
// 0, at 2, 8 and 14 of stage 1.
TEST(InStep, RanksOnTheSameSwitches) {
  Plan plan = small_plan({.pp = 2, .dp = 16, .ep = 16});
  plan.model.architecture.experts = 16;
  plan.training.precision = Precision::kBf16;
  const auto classes = [&](const std::string& routing, const std::string& more) {
    plan.cluster = parse_cluster(
        "name: c\nnodes: 32\ndevices_per_node: 1\ndevice: {kind: gpu, peak: 1 TFLOP/s, "
        "memory_bandwidth: 1 TB/s, memory: 1 GB}\nnode_link: {bandwidth: 1 GB/s, latency: 0 "
        "us}\nnetwork:\n  bandwidth: 1 GB/s\n  latency: 1 us\n"
        "  fabric: {kind: fat_tree, switch_ports: 8, oversubscription: 3, switch_latency: 0 us, "
        "routing: " +
            routing + "}\n" + more,
        "c.yaml");
    const Program program = build_program(plan);
    ExpertLoad load(plan);
    const OpCosts costs(plan, program, std::nullopt, {}, load.of(1, 0, 0));
    return classes_in_step(GpuWorld(plan, program, costs));
  };
  EXPECT_EQ(classes("adaptive", ""),
            std::vector<int32_t>({0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5}));
  EXPECT_EQ(classes("adaptive", "faults:\n  - {device: 20, speed: 0.5}\n"),
            std::vector<int32_t>({0, 0, 1, 1, 2, 1, 3, 3, 4, 4, 4, 4, 5, 5, 6, 6}));
  EXPECT_TRUE(classes("static", "").empty());
}

}  // namespace
}  // namespace rehearse
