// Clusters of GPUs: what may not change a result does not, and what should does.

#include "sim/gpu_work.h"

#include <map>

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "sim/exchange_speed.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

Cluster gpus(int64_t nodes, const std::string& more = "", const std::string& fabric = "") {
  return parse_cluster("name: gpus\nnodes: " + std::to_string(nodes) +
                           "\ndevices_per_node: 4\ndevice:\n  kind: gpu\n  peak: 100 GFLOP/s\n"
                           "  peak_fp8: 200 GFLOP/s\n"
                           "  memory_bandwidth: 100 GB/s\n  memory: 1 GB\n"
                           "node_link:\n  bandwidth: 3 GB/s\n  latency: 1 us\n"
                           "network:\n  bandwidth: 1 GB/s\n  latency: 2 us\n" +
                           fabric + more,
                       "gpus.yaml");
}

Plan gpu_plan(Layout layout, int64_t nodes) {
  Plan plan = small_plan(layout);
  plan.training.precision = Precision::kFp8;
  plan.cluster = gpus(nodes);
  return plan;
}

Plan skewed(Plan plan, double skew, LoadVaries varies) {
  plan.expert_load = {.synthetic = true, .skew = skew, .varies = varies};
  return plan;
}

std::string timeline_of(const Plan& plan, const SimulateOptions& options) {
  const Program program = build_program(plan);
  return print_timeline(program, simulate(plan, program, std::nullopt, options).timeline);
}

// Stages of four nodes under leaf switches of nine, whose nine cables go unevenly to two spines.
Plan straddling(int64_t ep, const std::string& switch_latency = "1 us") {
  Plan plan = gpu_plan({.pp = 5, .dp = 16, .ep = ep, .layers_per_stage = {1, 1, 1, 1, 1}}, 20);
  plan.model.architecture.layers = 5;
  plan.cluster = gpus(20,
                      "",
                      "  fabric:\n    kind: multi_plane_fat_tree\n    switch_ports: 18\n    "
                      "switch_latency: " +
                          switch_latency + "\n");
  return plan;
}

std::vector<Plan> plans() {
  const Layout dualpipe{.pp = 4, .dp = 16, .ep = 8, .schedule = ScheduleKind::kDualPipe};
  const Plan balanced = gpu_plan(dualpipe, 16);
  Plan slow = balanced;
  slow.cluster =
      gpus(16, "faults:\n  - {nic: 5, bandwidth: 300 MB/s}\n  - {device: 9, speed: 0.7}\n");
  Plan planes = balanced;
  planes.cluster = gpus(
      16,
      "",
      "  fabric:\n    kind: multi_plane_fat_tree\n    switch_ports: 8\n    switch_latency: 1 us\n");
  Plan narrow = balanced;
  narrow.cluster = gpus(16,
                        "",
                        "  fabric:\n    kind: multi_rail_fat_tree\n    switch_ports: 8\n    "
                        "switch_latency: 1 us\n    oversubscription: 3\n");
  return {balanced,
          skewed(balanced, 0.5, LoadVaries::kNever),
          skewed(balanced, 0.5, LoadVaries::kMicroBatch),
          slow,
          planes,
          narrow,
          gpu_plan({.pp = 2, .dp = 8, .ep = 2}, 4),
          straddling(4),
          straddling(8),
          gpu_plan({.pp = 2, .dp = 8, .schedule = ScheduleKind::kZB1P, .zero_stage = 0}, 4)};
}

TEST(GpuSimulation, RunsThreadsMemoryAndFoldingDoNotChangeAByte) {
  for (const Plan& plan : plans()) {
    const std::string plain = timeline_of(plan, {.memoise = false});
    EXPECT_EQ(timeline_of(plan, {.memoise = false}), plain);
    EXPECT_EQ(timeline_of(plan, {}), plain);
    EXPECT_EQ(timeline_of(plan, {.threads = 2}), plain);
    EXPECT_EQ(timeline_of(plan, {.threads = 7}), plain);
    EXPECT_EQ(timeline_of(plan, {.fold = true}), plain);
    EXPECT_EQ(timeline_of(plan, {.memoise = false, .fold = true, .threads = 2}), plain);
  }
}

TEST(GpuSimulation, FoldsOnlyWhatIsProvablyAlike) {
  const auto folded = [](const Plan& plan) {
    return simulate(plan, build_program(plan), std::nullopt, {.keep = Keep::kSummary, .fold = true})
        .ranks.slots();
  };
  const std::vector<Plan> all = plans();
  EXPECT_EQ(folded(all[0]), 1);   // balanced: every data rank alike
  EXPECT_EQ(folded(all[1]), 8);   // skewed, every EP group alike
  EXPECT_EQ(folded(all[2]), 16);  // every all-to-all different
  EXPECT_EQ(folded(all[3]), 16);  // a slow NIC
  EXPECT_EQ(folded(all[5]), 16);  // links shared between switches
}

// Node 4 s + k of stage s sends to node 4 (s + 1) + k: those of k = 2 and 3 cross leaves after the
// same stages, those of k = 0 and k = 1 after others.
TEST(GpuSimulation, FoldsWhatIsAlikeAcrossLeafSwitches) {
  const auto folded = [](const Plan& plan) {
    return simulate(
        plan, build_program(plan), std::nullopt, {.keep = Keep::kSummary, .fold = true});
  };
  const Prediction of_one_node = folded(straddling(4));
  EXPECT_EQ(of_one_node.ranks.slots(), 3);
  EXPECT_EQ(of_one_node.ranks.data_rank(of_one_node.ranks.slot(14)), 8);
  EXPECT_NE(of_one_node.not_folded.find("4 expert-parallel groups are of 3 kinds"),
            std::string::npos)
      << of_one_node.not_folded;
  const Prediction of_two = folded(straddling(8));
  EXPECT_EQ(of_two.ranks.slots(), 16);
  EXPECT_NE(of_two.not_folded.find("stand differently"), std::string::npos) << of_two.not_folded;
}

// All as far from each other as the farthest, over three switches: one rank stands for all. The
// step lies between that of switches that take no time and that of switches three times as slow, of
// which every message crosses one at least.
TEST(GpuSimulation, LevelRoutesFoldFurther) {
  for (const int64_t ep : {4, 8}) {
    const auto step = [&](const char* latency, bool level_routes) {
      const Plan plan = straddling(ep, latency);
      return simulate(plan,
                      build_program(plan),
                      std::nullopt,
                      {.keep = Keep::kSummary, .fold = true, .level_routes = level_routes});
    };
    const Prediction level = step("1 us", true);
    EXPECT_EQ(level.ranks.slots(), 1) << level.not_folded;
    EXPECT_EQ(level.not_folded, "");
    EXPECT_GT(level.summary.step, step("0 us", false).summary.step);
    EXPECT_LT(level.summary.step, step("3 us", false).summary.step);
  }
}

// Cables that could fall short if any device sent to any other do not when a plan's alone do: the
// step is that of cables a hundred times as wide.
TEST(GpuSimulation, LinksThatAPlanCannotFillDoNotBind) {
  for (Plan plan : {straddling(4), straddling(8)}) {
    EXPECT_TRUE(FabricRoutes(plan.cluster).any_binding());
    const Program program = build_program(plan);
    const Prediction p = simulate(plan, program, std::nullopt);
    EXPECT_GT(p.ranks.islands(), 1);
    plan.cluster.fabric = laid_out(plan.cluster.fabric);
    for (SwitchLink& l : plan.cluster.fabric.links) {
      l.bandwidth = BytesPerSecond(l.bandwidth.value() * 100);
    }
    EXPECT_EQ(simulate(plan, program, std::nullopt).timeline, p.timeline);
  }
}

TEST(GpuSimulation, RemembersAllToAlls) {
  const Plan plan = plans().front();
  const Program program = build_program(plan);
  const ExchangeCounts with = simulate(plan, program, std::nullopt).exchanges;
  const ExchangeCounts without =
      simulate(plan, program, std::nullopt, {.memoise = false}).exchanges;
  EXPECT_GT(with.remembered, 0);
  EXPECT_EQ(without.remembered, 0);
  EXPECT_EQ(with.alone, without.alone);
  EXPECT_GT(with.disturbed, 0);  // pipeline messages cross some
  EXPECT_EQ(with.disturbed, without.disturbed);
}

// Two nodes of one device: known answer. Of 8 experts, 4 on each rank, a token chooses 2: none of
// the other rank's with probability C(4, 2) / C(8, 2) = 6 / 28, so that 25.1 of 32 tokens go there.
// A token's bytes over 1 GB/s, and 2 us. Bytes in BF16: 32 values of 2, out with 2 weights and
// choices of 8, back with 2 gradients of 4. Before tokens are dispatched, the device notes 2
// choices of 8 bytes for each of 32, at 1 TB/s.
TEST(GpuSimulation, AnAllToAllOverOneLinkTakesItsBytes) {
  Plan plan = small_plan({.dp = 2, .ep = 2});
  plan.model.architecture.groups = plan.model.architecture.kept_groups = 1;
  plan.training.precision = Precision::kBf16;
  plan.cluster = parse_cluster(
      "name: two\nnodes: 2\ndevices_per_node: 1\ndevice:\n  kind: gpu\n  peak: 1 TFLOP/s\n"
      "  memory_bandwidth: 1 TB/s\n  memory: 1 GB\nnode_link:\n  bandwidth: 10 GB/s\n  latency: 1 "
      "us\n"
      "network:\n  bandwidth: 1 GB/s\n  latency: 2 us\n",
      "two.yaml");
  const Program program = build_program(plan);
  const Timeline t = simulate(plan, program, std::nullopt).timeline;
  const std::map<OpName, Duration> expected = {
      {{OpKind::kDispatch, Pass::kForward}, Duration::picoseconds(25 * (64 + 16) * 1000 + 512)},
      {{OpKind::kCombine, Pass::kForward}, Duration::picoseconds(25 * 64 * 1000)},
      {{OpKind::kCombine, Pass::kInput}, Duration::picoseconds(25 * 64 * 1000)},
      {{OpKind::kDispatch, Pass::kInput}, Duration::picoseconds(25 * (64 + 8) * 1000)}};
  int64_t seen = 0;
  for (const Op& op : program.ops()) {
    if (!is_all_to_all(op.kind)) continue;
    const Span& span = t.spans[static_cast<size_t>(op.id)];
    EXPECT_EQ(span.end - span.begin, expected.at({op.kind, op.pass}) + Duration::microseconds(2))
        << to_string(op);
    ++seen;
  }
  EXPECT_EQ(seen, 3 * 4 * 8);
}

// Ranks that share a sequence gather the others' compressed keys and values before attention
// computes: known answer. 2 ranks on 2 nodes, 16 of 32 tokens of the other one, (16 + 4) values of
// 2 bytes each: 640 bytes over 1 MB/s, and 2 us; in backward twice that.
TEST(GpuSimulation, ContextIsGatheredOverTheLinks) {
  Plan plan = small_plan({.cp = 2});
  plan.training.precision = Precision::kBf16;
  plan.cluster = parse_cluster(
      "name: two\nnodes: 2\ndevices_per_node: 1\ndevice:\n  kind: gpu\n  peak: 1 PFLOP/s\n"
      "  memory_bandwidth: 1000 TB/s\n  memory: 1 GB\nnode_link:\n  bandwidth: 10 GB/s\n  latency: "
      "1 us\nnetwork:\n  bandwidth: 1 MB/s\n  latency: 2 us\n",
      "two.yaml");
  const Program program = build_program(plan);
  const Timeline t = simulate(plan, program, std::nullopt).timeline;
  int64_t seen = 0;
  for (const Op& op : program.ops()) {
    if (op.kind != OpKind::kGather) continue;
    const Span& span = t.spans[static_cast<size_t>(op.id)];
    const double times = op.pass == Pass::kForward ? 1 : 2;
    EXPECT_NEAR((span.end - span.begin).seconds(), times * 640e-6 + 2e-6, 1e-12) << to_string(op);
    ++seen;
  }
  EXPECT_EQ(seen, 4 * 2 * 8);
}

// Those flows share the links with all-to-alls: with both on the network at once, each is longer
// than with the network to itself, and the step's time moves with the network's bandwidth.
TEST(GpuSimulation, GatheringAndAllToAllsShareTheNetwork) {
  Plan plan = gpu_plan({.pp = 2, .dp = 8, .ep = 8, .schedule = ScheduleKind::kDualPipe}, 4);
  plan.training.sequence_length = 512;
  const auto exchanges = [&] {
    const Prediction p = simulate(plan, build_program(plan), std::nullopt);
    return p.exchanges;
  };
  const ExchangeCounts apart = exchanges();
  plan.layout.dp = 1;
  plan.layout.cp = 8;
  const ExchangeCounts together = exchanges();
  EXPECT_GT(together.disturbed, apart.disturbed);
  // Also where groups of ranks that share a sequence do not all lie on nodes alike: of 6 ranks on
  // nodes of 4 some stand on two nodes, some on three.
  Plan uneven = gpu_plan({.dp = 4, .cp = 6}, 6);
  uneven.training.sequence_length = 768;
  EXPECT_EQ(timeline_of(uneven, {.fold = true}), timeline_of(uneven, {}));
  for (const SimulateOptions& o : {SimulateOptions{.memoise = false},
                                   SimulateOptions{.threads = 2},
                                   SimulateOptions{.fold = true}}) {
    EXPECT_EQ(timeline_of(plan, o), timeline_of(plan, {}));
  }
}

// Network and NVLink are busy at once: the slower decides, and SMs where they are slower still.
TEST(GpuSimulation, TheSlowestOfNetworkNvlinkAndSmsDecides) {
  Plan plan = gpu_plan({.dp = 8, .ep = 8}, 2);
  plan.training.sequence_length = 4096;  // latencies are nothing beside this
  const Program program = build_program(plan);
  const auto time = [&] { return exchange_speeds(plan, program).front().mean.seconds(); };
  const double by_network = time();
  plan.cluster.network->bandwidth = BytesPerSecond(2e9);
  EXPECT_LT(time(), 0.7 * by_network);
  plan.cluster.network->bandwidth = BytesPerSecond(1e12);
  const double by_nvlink = time();
  plan.cluster.node_link->bandwidth = BytesPerSecond(6e9);
  EXPECT_NEAR(time() / by_nvlink, 0.5, 0.15);
  plan.cluster.copy_per_sm = BytesPerSecond(1e6);
  const double by_sms = time();
  EXPECT_GT(by_sms, 5 * by_nvlink);
  plan.cluster.communication_sms = 40;
  EXPECT_NEAR(time() / by_sms, 0.5, 1e-6);
}

TEST(GpuSimulation, SkewIsWaiting) {
  const Layout layout{.pp = 2, .dp = 8, .ep = 8};
  double before = -1;
  for (const double skew : {0.0, 0.5, 1.0, 2.0}) {
    const Plan plan = skewed(gpu_plan(layout, 4), skew, LoadVaries::kMicroBatch);
    const Prediction p = simulate(plan, build_program(plan), std::nullopt);
    EXPECT_GT(p.summary.exchange_wait_fraction, before) << skew;
    before = p.summary.exchange_wait_fraction;
  }
  const Plan balanced = gpu_plan(layout, 4);
  EXPECT_LT(
      simulate(balanced, build_program(balanced), std::nullopt).summary.exchange_wait_fraction,
      before / 4);
}

TEST(GpuSimulation, SlowPartsMakeTheStepLonger) {
  Plan plan = gpu_plan({.pp = 2, .dp = 16, .ep = 16}, 8);
  plan.model.architecture.experts = 16;
  plan.training.sequence_length = 4096;
  const auto step_on = [&](const Cluster& cluster) {
    plan.cluster = cluster;
    plan.cluster.peak = FlopsPerSecond(1e13);
    plan.cluster.memory_bandwidth = BytesPerSecond(1e12);
    return simulate(plan, build_program(plan), std::nullopt, {.keep = Keep::kSummary})
        .summary.step.seconds();
  };
  const auto tree = [](const std::string& oversubscription) {
    return gpus(8,
                "",
                "  fabric:\n    kind: fat_tree\n    switch_ports: 8\n    switch_latency: 0 us\n"
                "    oversubscription: " +
                    oversubscription + "\n");
  };
  const double sound = step_on(gpus(8));
  EXPECT_GT(step_on(gpus(8, "faults:\n  - {device: 3, speed: 0.05}\n")), 1.2 * sound);
  EXPECT_GT(step_on(gpus(8, "faults:\n  - {nic: 3, bandwidth: 100 MB/s}\n")), 3 * sound);
  EXPECT_NEAR(step_on(tree("1")) / sound, 1, 1e-9);  // non-blocking: only NICs matter
  EXPECT_GT(step_on(tree("3")), 1.3 * sound);        // four NICs, two cables up
}

TEST(GpuSimulation, ComputationIsSlowerBesideCommunication) {
  // Compute-bound ops beside a kernel that holds 50 of 100 SMs take twice as long at most.
  Plan plan = gpu_plan({.pp = 2, .dp = 4, .ep = 4, .schedule = ScheduleKind::kDualPipe}, 2);
  plan.cluster.sms = 100;
  plan.cluster.memory_bandwidth = BytesPerSecond(1e15);
  plan.cluster.communication_sms = 1;
  const Program program = build_program(plan);
  const auto fb = [&] {
    return mean(simulate(plan, program, std::nullopt).summary.ranks).fb.seconds();
  };
  const double one = fb();
  plan.cluster.communication_sms = 50;
  EXPECT_GT(fb(), 1.02 * one);
  EXPECT_LT(fb(), 2.1 * one);
}

// Ranks that do not fill their last node use the NICs of its idle devices where theirs are on other
// planes. Three stages of two ranks on nodes of four: ranks 4 and 5, alone on the second node, send
// gradients to ranks 2 and 3 of the first, whose planes devices 6 and 7 are on. Known answer: 32
// tokens of 32 BF16 values through device 6's NIC of 1 MB/s take 2.048 ms, device 7's 1 GB/s 2 us.
TEST(GpuSimulation, IdleDevicesLendTheirNics) {
  const std::string fabric =
      "  fabric:\n    kind: multi_plane_fat_tree\n    switch_ports: 8\n    switch_latency: 1 us\n";
  Plan plan = gpu_plan({.pp = 3, .dp = 2}, 2);
  const auto sends_of = [&](const Cluster& cluster, int32_t data_rank) {
    plan.cluster = cluster;
    const Program program = build_program(plan);
    const Timeline t = simulate(plan, program, std::nullopt).timeline;
    Duration longest;
    for (const Op& op : program.ops()) {
      if (op.kind != OpKind::kSend || op.pp_rank != 2) continue;
      const Span& span = t.spans[static_cast<size_t>(program.global_id(op.id, data_rank))];
      longest = std::max(longest, span.end - span.begin);
    }
    return longest.seconds();
  };
  const Cluster slow = gpus(2, "faults:\n  - {nic: 6, bandwidth: 1 MB/s}\n", fabric);
  EXPECT_NEAR(sends_of(slow, 0), 2.048e-3, 20e-6);
  EXPECT_LT(sends_of(slow, 1), 20e-6);
  EXPECT_LT(sends_of(gpus(2, "", fabric), 0), 20e-6);
  plan.cluster = gpus(2, "", fabric);
  EXPECT_EQ(timeline_of(plan, {.fold = true, .threads = 2}), timeline_of(plan, {}));
}

// NIC i of one node on the network of NIC 1 - i of the other: what crosses nodes goes over NVLink
// first, to the device that is on the destination's network.
TEST(GpuSimulation, CrookedWiringCrossesNvlink) {
  const auto time = [](const std::string& a, const std::string& b) {
    Plan plan = small_plan({.dp = 4, .ep = 4});
    plan.training.precision = Precision::kBf16;
    plan.training.sequence_length = 1024;
    plan.cluster = parse_cluster(
        "name: c\nnodes: 2\ndevices_per_node: 2\ndevice:\n  kind: gpu\n  peak: 1 TFLOP/s\n"
        "  memory_bandwidth: 1 TB/s\n  memory: 1 GB\n"
        "node_link: {bandwidth: 10 MB/s, latency: 1 us}\n"
        "network:\n  bandwidth: 1 GB/s\n  latency: 1 us\n  fabric:\n    kind: custom\n"
        "    switches:\n"
        "      - {name: a, latency: 0 us, devices: \"" +
            a + "\"}\n      - {name: b, latency: 0 us, devices: \"" + b + "\"}\n",
        "c.yaml");
    return exchange_speeds(plan, build_program(plan)).front().mean.seconds();
  };
  EXPECT_GT(time("0, 3", "1, 2"), 1.2 * time("0, 2", "1, 3"));
}

// Pipeline messages of some data ranks stay in their node and others' do not: equal latencies do
// not make them alike.
TEST(GpuSimulation, DoesNotFoldOverTwoKindsOfLink) {
  Plan plan = gpu_plan({.pp = 3, .dp = 4}, 4);
  plan.training.sequence_length = 1024;
  plan.cluster.devices_per_node = 6;
  plan.cluster.nodes = 2;
  plan.cluster.network->latency = plan.cluster.node_link->latency;
  plan.cluster.network->bandwidth = BytesPerSecond(1e7);
  EXPECT_EQ(timeline_of(plan, {.fold = true}), timeline_of(plan, {}));
}

// What a rank does itself in a reduction counts, be it beside one link or two: known answer, with a
// memory so slow that it decides. Dense weights of the small model: 4 x 3112 of attention (queries
// 24 x (32 + 1 + 24), keys and values 20 x 32 + 16 + 16 x 32, output 16 x 32, norms 64), one dense
// FFN of 3 x 32 x 48, three layers' router of 8 x 32 and shared expert of 3 x 32 x 16, embedding
// and head of 256 x 32, a norm of 32: 38,848; experts: 3 x 8 x 3 x 32 x 16 = 36,864. A rank sums
// its share of all copies, reading each and writing the sum in FP32, at 100 kB/s; then the steps of
// the ring within nodes (1 us) and across them (2 us).
TEST(GpuSimulation, ReductionsTakeTheirOwnWorkToo) {
  for (const int64_t dp : {4, 8}) {
    Plan plan = gpu_plan({.dp = dp}, 2);
    plan.cluster.memory_bandwidth = BytesPerSecond(1e5);
    const Program program = build_program(plan);
    const Timeline t = simulate(plan, program, std::nullopt).timeline;
    const double steps = dp == 4 ? 3e-6 : 3e-6 + 2e-6;
    int64_t seen = 0;
    for (const Op& op : program.ops()) {
      if (op.kind != OpKind::kGradReduce) continue;
      const double elements = op.group == Group::kExpertReplicas ? 36864 : 38848;
      const auto copies = static_cast<double>(dp);
      const double work = elements / copies * (copies + 1) * 4 / 1e5;
      const Span& span = t.spans[static_cast<size_t>(op.id)];
      EXPECT_NEAR((span.end - span.begin).seconds(), work + steps, 1e-9) << to_string(op);
      ++seen;
    }
    EXPECT_EQ(seen, 2);
  }
}

// AdamW without a calibration: of each of a rank's weights the FP32 gradient, the master weight and
// two moments of 2 bytes (FP8) or 4 (BF16) read and written, and the BF16 weight: 22 or 30 bytes;
// then gradients back to zero, 4 bytes of every weight held. At 100 kB/s; DP1, so the rank has all.
TEST(GpuSimulation, TheOptimizerMovesItsBytes) {
  for (const auto& [precision, bytes] : {std::pair(Precision::kFp8, 22), {Precision::kBf16, 30}}) {
    Plan plan = gpu_plan({}, 2);
    plan.training.precision = precision;
    plan.cluster.memory_bandwidth = BytesPerSecond(1e5);
    const Program program = build_program(plan);
    const Timeline t = simulate(plan, program, std::nullopt).timeline;
    int64_t seen = 0;
    for (const Op& op : program.ops()) {
      if (op.kind != OpKind::kOptimizer) continue;
      const Span& span = t.spans[static_cast<size_t>(op.id)];
      EXPECT_NEAR((span.end - span.begin).seconds(), (38848 + 36864) * (bytes + 4) / 1e5, 1e-9);
      ++seen;
    }
    EXPECT_EQ(seen, 1);
  }
}

TEST(Collectives, AlgorithmsByPredictedTime) {
  const Cluster cluster = gpus(16);
  using A = CollectivePlan::Algorithm;
  // Small, to everybody: few steps. Large, scattered: every link busy, few steps across nodes.
  EXPECT_EQ(plan_collective(cluster, 16, 4, Bytes(), true).algorithm, A::kTree);
  const CollectivePlan large = plan_collective(cluster, 16, 4, Bytes(4'000'000), false);
  EXPECT_EQ(large.algorithm, A::kHierarchical);
  EXPECT_EQ(large.network, Bytes(1'000'000));
  EXPECT_EQ(large.node, Bytes(3'000'000));
  EXPECT_EQ(large.latency, Duration::microseconds(2) * 15 + Duration::microseconds(1) * 3);
}

}  // namespace
}  // namespace rehearse
