// Timelines of small Programs, frozen as text. To make them anew:
// REHEARSE_UPDATE_GOLDENS=1 build/tests/sim_test --gtest_filter='TimelineGolden*', and say in the
// commit which ops moved and why.

#include <cstdlib>

#include <gtest/gtest.h>

#include "base/file.h"
#include "plan/testing.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

void expect_golden(const std::string& name, const Plan& plan) {
  const Program program = build_program(plan);
  const std::string text = print_timeline(program, simulate(plan, program, std::nullopt).timeline);
  const std::string path = std::string(REHEARSE_SOURCE_DIR) + "/sim/goldens/" + name;
  if (std::getenv("REHEARSE_UPDATE_GOLDENS") != nullptr) write_file(path, text);
  EXPECT_EQ(text, read_file(path)) << path;
}

Plan small(Layout layout, int64_t micro_batches) {
  Plan plan = small_plan(std::move(layout));
  plan.training.micro_batches = micro_batches;
  return plan;
}

// Ranks are cores of one node; costs are rooflines.
TEST(TimelineGolden, OneForwardOneBackwardOnCores) {
  expect_golden("1f1b_pp2_n3_cores.json", small({.pp = 2}, 3));
}

TEST(TimelineGolden, ZeroBubbleOnCores) {
  expect_golden("zb1p_pp2_n3_cores.json", small({.pp = 2, .schedule = ScheduleKind::kZB1P}, 3));
}

// Ranks are emulated devices on two nodes, with links among and between them.
TEST(TimelineGolden, ExpertParallelOnEmulatedNodes) {
  Plan plan = small({.dp = 4, .ep = 4}, 1);
  plan.cluster.device = DeviceKind::kEmulated;
  plan.cluster.nodes = 2;
  plan.cluster.devices_per_node = 2;
  plan.cluster.node_link = Link{BytesPerSecond(1e8), Duration::microseconds(3)};
  plan.cluster.network = Link{BytesPerSecond(2e7), Duration::microseconds(5)};
  expect_golden("1f1b_ep4_emulated.json", plan);
}

// Ranks are GPUs without a calibration, four on each of two nodes.
TEST(TimelineGolden, DualPipeOnGpus) {
  Plan plan = small({.pp = 2, .dp = 4, .ep = 4, .schedule = ScheduleKind::kDualPipe}, 4);
  plan.training.precision = Precision::kFp8;
  plan.cluster = parse_cluster(
      "name: gpus\nnodes: 2\ndevices_per_node: 4\ndevice:\n  kind: gpu\n  peak: 100 GFLOP/s\n"
      "  peak_fp8: 200 GFLOP/s\n  memory_bandwidth: 100 GB/s\n  memory: 1 GB\n"
      "node_link:\n  bandwidth: 3 GB/s\n  latency: 1 us\n"
      "network:\n  bandwidth: 1 GB/s\n  latency: 2 us\n",
      "gpus.yaml");
  // One replica's worth is enough text: the four do the same.
  const Program program = build_program(plan);
  const Prediction p =
      simulate(plan, program, std::nullopt, {.keep = Keep::kRanks, .ranks = {0, 4}});
  const std::string text = print_timeline(program, p.timeline, p.spans);
  const std::string path =
      std::string(REHEARSE_SOURCE_DIR) + "/sim/goldens/dualpipe_pp2_ep4_n4_gpus.json";
  if (std::getenv("REHEARSE_UPDATE_GOLDENS") != nullptr) write_file(path, text);
  EXPECT_EQ(text, read_file(path)) << path;
}

}  // namespace
}  // namespace rehearse
