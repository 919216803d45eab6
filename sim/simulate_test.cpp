#include "sim/simulate.h"

#include <map>

#include <gtest/gtest.h>

#include "plan/routing/counts.h"
#include "plan/testing.h"
#include "sim/expert_load.h"
#include "sim/price/op_costs.h"

namespace rehearse {
namespace {

std::vector<double> idle_units(const Program::Spec& spec) {
  const Duration unit = Duration::picoseconds(int64_t{1} << 32);
  const Program program = Program::build(spec);
  const Summary s = summarize(program, simulate_unit_costs(program, unit));
  std::vector<double> idle;
  for (const Breakdown& b : s.ranks) idle.push_back((s.step - b.f - b.b - b.w - b.fb) / unit);
  return idle;
}

// F = Bi = W = 1 and F&B = 3: at chunk granularity every rank's bubble is the formula's, and ops
// never make it larger.
TEST(Bubble, EqualsTheFormulaOnEveryRank) {
  struct BubbleCase {
    ScheduleKind kind;
    int64_t pp, n;
    double bubble;
  };
  for (const BubbleCase& c : std::vector<BubbleCase>{{ScheduleKind::k1F1B, 8, 20, 7 * 3},
                                                     {ScheduleKind::k1F1B, 16, 120, 15 * 3},
                                                     {ScheduleKind::kInterleaved, 4, 8, 3 * 3},
                                                     {ScheduleKind::kInterleaved, 8, 24, 7 * 3},
                                                     {ScheduleKind::kDualPipeV, 4, 10, 6},
                                                     {ScheduleKind::kDualPipeV, 8, 60, 14},
                                                     {ScheduleKind::kZB1P, 8, 20, 7},
                                                     {ScheduleKind::kZB1P, 16, 120, 15},
                                                     {ScheduleKind::kDualPipe, 2, 4, 0},
                                                     {ScheduleKind::kDualPipe, 8, 20, 6},
                                                     {ScheduleKind::kDualPipe, 16, 120, 14}}) {
    Program::Spec spec{.layout = {.pp = c.pp, .schedule = c.kind},
                       .micro_batches = c.n,
                       .granularity = Granularity::kCell};
    spec.layout.layers_per_stage.assign(static_cast<size_t>(spec.layout.stages()), 4);
    EXPECT_DOUBLE_EQ(facts_of(c.kind).bubble(static_cast<double>(c.pp), {}), c.bubble);
    for (const double idle : idle_units(spec)) {
      EXPECT_DOUBLE_EQ(idle, c.bubble) << name_of(c.kind) << " " << c.pp << " x " << c.n;
    }
    spec.granularity = Granularity::kOp;
    for (const double idle : idle_units(spec)) EXPECT_LE(idle, c.bubble + 1e-9);
  }
}

// Pairs of 1F1B idle as long as its cells one by one, with any number of chunks; they hold more.
TEST(Bubble, OverlappedOneForwardOneBackward) {
  for (const auto kind : {ScheduleKind::k1F1B, ScheduleKind::kInterleaved}) {
    for (const int64_t pp : {1, 2, 3, 8}) {
      for (int64_t chunks = 1; chunks <= (kind == ScheduleKind::k1F1B ? 1 : 3); ++chunks) {
        Program::Spec spec{
            .layout = {.pp = pp, .schedule = kind, .chunks = chunks, .overlap_all_to_all = true},
            .micro_batches = 4 * pp,
            .granularity = Granularity::kCell};
        spec.layout.layers_per_stage.assign(static_cast<size_t>(spec.layout.stages()), 1);
        const ScheduleFacts& facts = facts_of(kind, true);
        for (const double idle : idle_units(spec)) {
          EXPECT_DOUBLE_EQ(idle, facts.bubble(static_cast<double>(pp), {})) << pp << " " << chunks;
        }
        EXPECT_EQ(peak_micro_batches(build_schedule(spec.layout, spec.micro_batches, 0)),
                  facts.peak_micro_batches(pp, chunks));
      }
    }
  }
}

// Stages of an embedding or a head alone cost nothing here: the others idle as if these were not.
TEST(Bubble, EmptyStagesAddNone) {
  for (const auto kind : {ScheduleKind::k1F1B, ScheduleKind::kZB1P}) {
    Program::Spec spec{
        .layout = {.pp = 6, .schedule = kind, .layers_per_stage = {0, 1, 1, 1, 1, 0}},
        .micro_batches = 20,
        .granularity = Granularity::kCell};
    const std::vector<double> idle = idle_units(spec);
    for (size_t rank = 1; rank <= 4; ++rank) {
      EXPECT_DOUBLE_EQ(idle[rank], facts_of(kind).bubble(4, {})) << name_of(kind) << rank;
    }
  }
}

TEST(Simulate, TheSameInputGivesTheSameBytes) {
  for (const auto kind : {ScheduleKind::k1F1B, ScheduleKind::kZB1P, ScheduleKind::kDualPipe}) {
    const Plan plan = small_plan({.pp = 4, .schedule = kind});
    const Program program = build_program(plan);
    const Prediction first = simulate(plan, program, std::nullopt);
    EXPECT_EQ(print_timeline(program, first.timeline),
              print_timeline(program, simulate(plan, program, std::nullopt).timeline));
    // A Program read back from its text form is as good.
    const Program parsed = parse_program(print_program(program), "p.txt");
    EXPECT_EQ(simulate(plan, parsed, std::nullopt).timeline, first.timeline);
  }
}

TEST(Simulate, EveryOpRunsAfterItsDependenciesAndItsLane) {
  const Plan plan = small_plan({.pp = 4, .schedule = ScheduleKind::kDualPipe});
  const Program program = build_program(plan);
  const Timeline t = simulate(plan, program, std::nullopt).timeline;
  for (const Op& op : program.ops()) {
    const Span& span = t.spans[static_cast<size_t>(op.id)];
    EXPECT_LE(span.begin, span.end);
    for (const int32_t d : program.dependencies(op.id)) {
      EXPECT_LE(t.spans[static_cast<size_t>(d)].end, span.begin);
    }
  }
  for (int32_t r = 0; r < 4; ++r) {
    for (int lane = 0; lane < kLanes; ++lane) {
      Duration end;
      for (const int32_t id : program.lane(r, static_cast<Lane>(lane))) {
        EXPECT_GE(t.spans[static_cast<size_t>(id)].begin, end);
        end = t.spans[static_cast<size_t>(id)].end;
      }
    }
  }
}

TEST(Simulate, CoresAreShared) {
  // Two stages need two cores; on one core the step takes nearly twice as long, not the same.
  Plan plan = small_plan({.pp = 2, .schedule = ScheduleKind::kDualPipe});
  const Program program = build_program(plan);
  const double two = simulate(plan, program, std::nullopt).timeline.step().seconds();
  plan.cluster.cores = 1;
  const double one = simulate(plan, program, std::nullopt).timeline.step().seconds();
  EXPECT_GT(one, 1.7 * two);
  EXPECT_LT(one, 2.05 * two);
}

TEST(Simulate, ReportsWhoIsStuck) {
  const Plan plan = small_plan({.pp = 2});
  std::string text = print_program(build_program(plan));
  const size_t at = text.find("embed.F s0 d0 m0");
  text.insert(at + 16, " <- 5");
  const Program stuck = parse_program(text, "p.txt");
  try {
    simulate(plan, stuck, std::nullopt);
    FAIL() << "ran to its end";
  } catch (const ScheduleError& e) {
    EXPECT_NE(std::string(e.what()).find("rank 0 lane compute: next embed.F s0 m0 waits for"),
              std::string::npos)
        << e.what();
  }
}

// Every kernel of the plan takes 10 us, whatever else runs; the runtime adds nothing.
Calibration even_calibration(const Plan& plan, const Program& program) {
  Calibration c{.machine = "test", .cores = 1000, .build = "test"};
  const Duration t = Duration::microseconds(10);
  for (const KernelCall& call : kernels_of(plan, program)) {
    c.kernels[call] = {.alone = t, .mean = t, .low = t, .high = t, .busy = t};
  }
  return c;
}

TEST(Simulate, CalibratedTimesAreUsedAndTheRestIsSaidToBeRoofline) {
  const Plan plan = small_plan({.pp = 1});
  const Program program = build_program(plan);
  Calibration c = even_calibration(plan, program);
  const Prediction all = simulate(plan, program, c);
  EXPECT_EQ(all.sources.roofline, 0);
  // Each call takes 10 us: the head's forward pass has three.
  for (const Op& op : program.ops()) {
    if (op.kind != OpKind::kHead || op.pass != Pass::kForward) continue;
    const Span& s = all.timeline.spans[static_cast<size_t>(op.id)];
    EXPECT_EQ(s.end - s.begin, Duration::microseconds(30));
  }
  c.kernels.erase(KernelCall{Kernel::kCrossEntropy, {32, 256}});
  const Prediction some = simulate(plan, program, c);
  EXPECT_EQ(some.sources.roofline, 1);
  EXPECT_TRUE(some.sources.unmeasured.contains("cross_entropy tokens=32 vocabulary=256"));
}

// An all-to-all's known answer. The small model's balanced tokens t choose the groups t and t + 1
// (modulo 4) of two experts each, and a rank has 32 of them.
//   One node, 2 ranks of two groups: from each to the other go t = 0, 1, 3 (or 1, 2, 3) of every 4:
//     24 tokens, over the node's link.
//   Two nodes of 2 ranks, a group each: 24 tokens go to the other node, and each rank passes on, of
//     its own and its peer's, those that have the neighbour's group: 2 x 16 tokens.
// A phase takes its bytes over the bandwidth, and the latency; the network's 200 kB/s and 500 us,
// the node's 1 MB/s and 300 us. Bytes of a token of 32 FP32 values, with weights and choices of 2
// experts (8 bytes each) on its way out, with the weights' gradients (4 each) on its way back.
TEST(Simulate, AllToAllTakesItsBytesOverTheLinks) {
  const std::map<OpName, int64_t> bytes = {{{OpKind::kDispatch, Pass::kForward}, 128 + 16},
                                           {{OpKind::kCombine, Pass::kForward}, 128},
                                           {{OpKind::kCombine, Pass::kInput}, 128},
                                           {{OpKind::kDispatch, Pass::kInput}, 128 + 8}};
  for (const int64_t nodes : {1, 2}) {
    const int64_t ep = 2 * nodes;
    Plan plan = small_plan({.dp = ep, .ep = ep});
    plan.cluster.device = DeviceKind::kEmulated;
    plan.cluster.nodes = nodes;
    plan.cluster.devices_per_node = 2;
    plan.cluster.node_link = Link{BytesPerSecond(1e6), Duration::microseconds(300)};
    plan.cluster.network = Link{BytesPerSecond(2e5), Duration::microseconds(500)};
    const Program program = build_program(plan);
    const Timeline t = simulate(plan, program, std::nullopt).timeline;
    int64_t seen = 0;
    for (const Op& op : program.ops()) {
      if (!is_all_to_all(op.kind)) continue;
      const auto token = static_cast<double>(bytes.at({op.kind, op.pass}));
      const double expected = nodes == 1 ? 24 * token / 1e6 + 300e-6
                                         : 24 * token / 2e5 + 500e-6 + 32 * token / 1e6 + 300e-6;
      const Span& s = t.spans[static_cast<size_t>(op.id)];
      EXPECT_NEAR((s.end - s.begin).seconds(), expected, 2e-12)
          << to_string(op) << " on " << nodes << " nodes";
      ++seen;
    }
    EXPECT_EQ(seen, 3 * 4 * 8);  // layers with experts, all-to-alls of each, micro-batches
  }
}

// A forward pass on one rank is a chain: every op that waits for another lane adds one wake-up.
TEST(Simulate, SleepingLanesTakeTheirTimeToWake) {
  const Plan plan = small_plan({});
  const Program program = build_program(plan, Mode::kForward);
  Calibration c = even_calibration(plan, program);
  const Timeline base = simulate(plan, program, c).timeline;
  c.overheads.wake_idle = Duration::microseconds(100);
  const Timeline slow = simulate(plan, program, c).timeline;
  int64_t switches = 0;
  for (const Op& op : program.ops()) {
    for (const int32_t d : program.dependencies(op.id)) {
      switches += program.ops()[static_cast<size_t>(d)].lane != op.lane;
    }
  }
  EXPECT_GT(switches, 0);
  EXPECT_EQ(slow.step() - base.step(), c.overheads.wake_idle * switches);
}

// On cores, making and splitting an exchange's messages is work: what follows the meeting of all
// ranks is its forwarding and unpacking.
TEST(Simulate, ExchangesWorkOnCores) {
  const Plan plan = small_plan({.dp = 2, .ep = 2});
  const Program program = build_program(plan, Mode::kForward);
  const Calibration c = even_calibration(plan, program);
  const Timeline t = simulate(plan, program, c).timeline;
  const MemberLoad load = ExpertLoad(plan).of(0, 0, 0).members.front();
  int64_t seen = 0;
  for (const Op& op : program.ops()) {
    if (!is_all_to_all(op.kind)) continue;
    const OpCalls calls = OpWork(plan).calls(op, load);
    EXPECT_FALSE(calls.pack.empty());
    const auto after = static_cast<int64_t>(calls.forward.size() + calls.work.size());
    const Span& span = t.spans[static_cast<size_t>(op.id)];
    EXPECT_EQ(span.end - span.begin, Duration::microseconds(10) * after) << to_string(op);
    ++seen;
  }
  EXPECT_GT(seen, 0);
}

}  // namespace
}  // namespace rehearse
