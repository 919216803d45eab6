// Balanced routing is what skewed routing tends to, and better hardware is never slower.

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "sim/expert_load.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

double step_seconds(const Plan& plan) {
  return simulate(plan,
                  build_program(plan),
                  std::nullopt,
                  {.keep = Keep::kSummary, .fold = plan.expert_load.balanced()})
      .summary.step.seconds();
}

// Nodes of 8 H800.
Plan h800s(const Layout& layout) {
  Plan plan = small_plan(layout);
  plan.training = {.micro_batches = 2 * layout.pp,
                   .micro_batch_size = 1,
                   .sequence_length = 4096,
                   .precision = Precision::kFp8};
  Architecture& a = plan.model.architecture;
  a.hidden = 7168;
  a.expert_intermediate = 2048;
  a.experts = 64;
  a.active_experts = 8;
  a.groups = 8;
  a.kept_groups = 4;
  plan.cluster = parse_cluster(
      "name: c\nnodes: " + std::to_string((plan.layout.world() + 7) / 8) +
          "\ndevices_per_node: 8\ndevice: {kind: gpu, peak: 989.5 TFLOP/s, peak_fp8: 1979 TFLOP/s, "
          "memory_bandwidth: 3.35 TB/s, memory: 80 GB, sms: 132, communication_sms: 20, "
          "copy_per_sm: 15.55 GB/s}\nnode_link: {bandwidth: 160 GB/s, latency: 3.33 us}\n"
          "network:\n  bandwidth: 47 GB/s\n  latency: 2.35 us\n",
      "c.yaml");
  return plan;
}

// Drawn tokens scatter all the same: with all_to_all each row travels, and links wait for the rank
// whose experts have most of them. This is by how much it has more than the mean.
double scatter(const Plan& plan) {
  ExpertLoad load(plan);
  double most = 0, all = 0;
  const GroupLoad& g = load.of(1, 0, 0);
  for (const MemberLoad& m : g.members) {
    const auto rows = static_cast<double>(m.exchange->arrived);
    most = std::max(most, rows);
    all += rows;
  }
  return most * static_cast<double>(g.members.size()) / all - 1;
}

TEST(Balanced, IsTheLimitOfSkews) {
  for (const int64_t ep : {8, 16, 32}) {
    for (const auto dispatcher :
         {Dispatcher::kTwoHop, Dispatcher::kAllToAll, Dispatcher::kAllGather}) {
      for (const int64_t kept : {4, 8}) {
        Plan plan = h800s({.pp = 2, .dp = ep, .ep = ep, .dispatcher = dispatcher});
        plan.model.architecture.kept_groups = kept;
        const double balanced = step_seconds(plan);
        plan.expert_load = {.synthetic = true, .skew = 0};
        const double rows = dispatcher == Dispatcher::kAllToAll ? scatter(plan) : 0;
        EXPECT_LT(rows, 0.02);
        EXPECT_NEAR(step_seconds(plan) / balanced, 1, 0.01 + rows)
            << "EP" << ep << " dispatcher " << static_cast<int>(dispatcher);
      }
    }
  }
}

// A step's time as a knob of the hardware is turned up, which may be longer by rounding alone.
void expect_never_slower(const Plan& plan,
                         const std::string& what,
                         void (*turn)(Cluster&, double)) {
  double before = std::numeric_limits<double>::infinity();
  for (const double factor : {0.5, 1.0, 1.3, 2.0, 4.0, 16.0}) {
    Plan better = plan;
    turn(better.cluster, factor);
    const double step = step_seconds(better);
    EXPECT_LE(step, before * (1 + 1e-9))
        << what << " x " << factor << ", " << name_of(plan.layout.schedule);
    before = step;
  }
}

BytesPerSecond scale(BytesPerSecond rate, double by) {
  return BytesPerSecond(rate.value() * by);
}

TEST(Hardware, BetterIsNeverSlower) {
  std::vector<Plan> plans;
  for (const auto schedule : {ScheduleKind::k1F1B, ScheduleKind::kDualPipe}) {
    for (const int64_t ep : {8, 16}) {
      plans.push_back(h800s({.pp = 2, .dp = ep, .ep = ep, .schedule = schedule}));
    }
  }
  plans.push_back(h800s({.pp = 2, .dp = 8, .ep = 8, .overlap_all_to_all = true}));
  for (const Plan& plan : plans) {
    expect_never_slower(plan, "copy_per_sm", [](Cluster& c, double by) {
      c.copy_per_sm = scale(*c.copy_per_sm, by);
    });
    expect_never_slower(plan, "network", [](Cluster& c, double by) {
      c.network->bandwidth = scale(c.network->bandwidth, by);
    });
    expect_never_slower(plan, "node_link", [](Cluster& c, double by) {
      c.node_link->bandwidth = scale(c.node_link->bandwidth, by);
    });
    expect_never_slower(plan, "memory_bandwidth", [](Cluster& c, double by) {
      c.memory_bandwidth = scale(c.memory_bandwidth, by);
    });
    expect_never_slower(plan, "peak", [](Cluster& c, double by) {
      c.peak = FlopsPerSecond(c.peak.value() * by);
      c.peak_fp8 = FlopsPerSecond(c.peak_fp8->value() * by);
    });
  }
}

}  // namespace
}  // namespace rehearse
