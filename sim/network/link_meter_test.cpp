#include "sim/network/link_meter.h"

#include <numeric>

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

// A link of 2 units per picosecond carries a, 300 units from 0 on, and b, 200 from 100 ps on. Until
// 100 a has all of it: 200; then both 1 each: a ends at 200, 100 after the other; b has then 100
// left, at 2: it ends at 250.
TEST(LinkMeter, BytesWhenTheyAreCarried) {
  Sharing sharing;
  const ResourceId link = sharing.add_resource(2);
  EventQueue queue;
  std::vector<std::array<double, 3>> pieces;
  LinkMeter meter([&](size_t port, Duration begin, Duration end, double bytes) {
    EXPECT_EQ(port, 7U);
    pieces.push_back(
        {static_cast<double>(begin.picoseconds()), static_cast<double>(end.picoseconds()), bytes});
  });
  meter.choose(link, 7);
  sharing.before_changes([&](Duration now) { meter.settle(now, sharing); });
  const auto start = [&](int64_t at, double work) {
    const std::vector<Use> uses = {{link, 1}};
    const Duration now = Duration::picoseconds(at);
    meter.started(sharing.start(now, work, Sharing::kNoBound, uses, 1), uses, work, sharing);
    sharing.update(now, queue);
  };
  start(0, 300);
  start(100, 200);
  std::vector<uint64_t> ended;
  while (!queue.empty()) {
    const EventQueue::Event event = queue.pop();
    sharing.finish(event, ended);
    sharing.update(Duration::picoseconds(event.time), queue);
  }
  EXPECT_EQ(pieces,
            (std::vector<std::array<double, 3>>{
                {0, 100, 200}, {100, 200, 100}, {100, 200, 100}, {200, 250, 100}}));
}

Plan plan_over(const Layout& layout, const std::string& fabric) {
  Plan plan = small_plan(layout);
  plan.training.precision = Precision::kBf16;
  plan.training.sequence_length = 2048;
  plan.cluster = parse_cluster(
      "name: c\nnodes: 8\ndevices_per_node: 4\ndevice: {kind: gpu, peak: 100 TFLOP/s, "
      "memory_bandwidth: 3 TB/s, memory: 8 GB, sms: 132, communication_sms: 20, copy_per_sm: "
      "100 GB/s}\nnode_link: {bandwidth: 3 GB/s, latency: 1 us}\nnetwork:\n  bandwidth: 1 GB/s\n"
      "  latency: 2 us\n  fabric: {switch_latency: 1 us, " +
          fabric + "}\n",
      "c.yaml");
  return plan;
}

// No bin holds more than the link carries in it, and all of them as much as is carried one way or
// the other: memoised, one by one, folded.
TEST(LinkLoad, NoBinBeyondTheLinksRate) {
  std::vector<Plan> plans;
  for (const auto dispatcher : {Dispatcher::kTwoHop, Dispatcher::kAllToAll}) {
    plans.push_back(
        plan_over({.pp = 4, .dp = 8, .ep = 4, .zero_stage = 3, .dispatcher = dispatcher},
                  "kind: single_switch"));
    plans.push_back(plan_over({.pp = 2, .dp = 8, .ep = 8, .tp = 2, .dispatcher = dispatcher},
                              "kind: single_switch"));
    plans.push_back(plan_over(
        {.pp = 2, .dp = 16, .ep = 8, .schedule = ScheduleKind::kDualPipe, .dispatcher = dispatcher},
        "kind: fat_tree, switch_ports: 16, oversubscription: 3"));
  }
  for (const Plan& plan : plans) {
    const Program program = build_program(plan);
    std::vector<double> sums;
    for (const SimulateOptions& how :
         {SimulateOptions{}, SimulateOptions{.memoise = false}, SimulateOptions{.fold = true}}) {
      SimulateOptions options = how;
      options.ranks = {9};
      options.link_load = true;
      const Prediction p = simulate(plan, program, std::nullopt, options);
      ASSERT_EQ(p.link_load.loads().size(), 1U);
      for (size_t k = 0; k < kLinkKinds; ++k) {
        const std::vector<double>& bins = p.link_load.loads().begin()->second[k];
        const double rate = k < 2 ? 3e9 : 1e9;
        for (const double bytes : bins) {
          EXPECT_LE(bytes, rate * p.link_load.bin().seconds()) << name_of(plan.layout.schedule);
        }
        const double sum = std::accumulate(bins.begin(), bins.end(), 0.0);
        if (sums.size() < kLinkKinds) sums.push_back(sum);
        EXPECT_NEAR(sum, sums[k], 1e-9 * sum) << k;
      }
    }
    EXPECT_GT(sums[0] + sums[2], 0);
  }
}

}  // namespace
}  // namespace rehearse
