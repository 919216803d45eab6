// The emulated cluster: links that take their time, byte counts that equal the routing counts'
// arithmetic, held ops, and hang reports.

#include <filesystem>
#include <future>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/program/op_work.h"
#include "plan/routing/counts.h"
#include "plan/routing/placement.h"
#include "plan/testing.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

using Clock = std::chrono::steady_clock;

Cluster linked(double node_rate, double network_rate, double latency_ms) {
  const Duration latency = Duration::seconds(latency_ms * 1e-3);
  return {.name = "test",
          .device = DeviceKind::kEmulated,
          .nodes = 2,
          .devices_per_node = 2,
          .peak = FlopsPerSecond(1e12),
          .memory_bandwidth = BytesPerSecond(1e12),
          .memory = Bytes(1'000'000'000),
          .node_link = Link{BytesPerSecond(node_rate), latency},
          .network = Link{BytesPerSecond(network_rate), latency}};
}

// When each transfer arrived, seconds after the first was begun.
std::vector<double> arrivals(LinkShaper& shaper,
                             const std::vector<std::tuple<int64_t, int64_t, int64_t>>& transfers) {
  std::vector<std::promise<Clock::time_point>> done(transfers.size());
  const auto begin = Clock::now();
  for (size_t i = 0; i < transfers.size(); ++i) {
    const auto& [from, to, bytes] = transfers[i];
    shaper.transfer(from, to, Bytes(bytes), [&done, i] { done[i].set_value(Clock::now()); });
  }
  std::vector<double> times;
  for (auto& d : done) {
    times.push_back(std::chrono::duration<double>(d.get_future().get() - begin).count());
  }
  return times;
}

// A transfer never arrives early; how late it may be depends on the machine's load.
void expect_time(double measured, double expected) {
  EXPECT_GE(measured, expected - 0.001);
  EXPECT_LE(measured, expected + 0.3);
}

TEST(Emulator, TransfersShareThePortsTheyCross) {
  const Cluster cluster = linked(10e6, 1e6, 20);
  LinkShaper shaper(cluster, 4);
  // Alone: 1 MB at 10 MB/s and 20 ms of latency.
  expect_time(arrivals(shaper, {{0, 1, 1'000'000}})[0], 0.12);
  // Two from one device to different nodes' devices cross different ports: neither waits.
  auto t = arrivals(shaper, {{0, 1, 1'000'000}, {0, 2, 100'000}});
  expect_time(t[0], 0.12);
  expect_time(t[1], 0.12);
  // Two into one NIC share it: each at 0.5 MB/s until the smaller is through (0.1 s), then the
  // other has 50 kB left at 1 MB/s.
  t = arrivals(shaper, {{0, 2, 50'000}, {1, 2, 100'000}});
  expect_time(t[0], 0.12);
  expect_time(t[1], 0.17);
}

TEST(Emulator, OpsTakeTheirRooflineTimeAndNotLess) {
  Plan plan = small_plan({.pp = 2, .schedule = ScheduleKind::kDualPipe});
  plan.cluster = linked(1e9, 1e9, 0.01);
  plan.cluster.peak = FlopsPerSecond(2e8);
  plan.cluster.memory_bandwidth = BytesPerSecond(1e10);
  plan.routing = Routing::kBalanced;
  Trainer trainer(plan, test_text_path());
  trainer.step(0);
  const Program& program = trainer.program();
  const Timeline& t = trainer.last_timeline();
  int64_t held = 0;
  for (const Op& op : program.ops()) {
    if (op.kind != OpKind::kAttn) continue;
    const Span& s = t.spans[static_cast<size_t>(op.id)];
    EXPECT_GE(s.end - s.begin,
              roofline(plan, OpWork(plan).calls(op, {}).all()) - Duration::microseconds(1));
    ++held;
  }
  EXPECT_GT(held, 0);
}

// Experts far from where they stand in order, and where: [slot] -> expert, and back.
constexpr std::array<int32_t, 8> kExpertOf = {5, 0, 3, 6, 1, 7, 2, 4};
constexpr std::array<int32_t, 8> kSlotOf = {1, 4, 6, 2, 7, 0, 3, 5};

std::string placement_file() {
  const auto path = std::filesystem::temp_directory_path() /
                    fmt::format("rehearse_placement_{}.json", ::getpid());
  write_file(path.string(),
             print_placement(
                 {{.experts = 8, .slots = 2, .expert_of = {kExpertOf.begin(), kExpertOf.end()}}}));
  return path.string();
}

// EP4 over two nodes of two: dispatch crosses nodes once per token and node, then is forwarded.
TEST(Emulator, BytesOnEveryLinkEqualTheRoutingCountsArithmetic) {
  const std::string file = placement_file();
  for (const auto& [routing, precision, placed] :
       {std::tuple(Routing::kLearned, Precision::kFp32, false),
        std::tuple(Routing::kBalanced, Precision::kFp32, false),
        std::tuple(Routing::kLearned, Precision::kBf16, false),
        std::tuple(Routing::kLearned, Precision::kFp8, false),
        std::tuple(Routing::kLearned, Precision::kFp32, true),
        std::tuple(Routing::kBalanced, Precision::kFp32, true)}) {
    Plan plan = small_plan({.dp = 4, .ep = 4});
    plan.training.precision = precision;
    if (placed) plan.expert_placement = file;
    plan.cluster = linked(1e9, 1e9, 0.01);
    plan.training.micro_batches = 2;
    plan.training.balance_loss = 0;
    plan.routing = routing;
    const Architecture& a = plan.model.architecture;
    Trainer trainer(plan, test_text_path());
    trainer.record_choices(true);
    trainer.step(0);
    std::map<std::pair<int64_t, int64_t>, int64_t> expected;
    const ExpertGroup group(plan, 0, 0);
    for (int64_t m = 0; m < plan.training.micro_batches; ++m) {
      for (int64_t layer = a.dense_layers(); layer < a.layers; ++layer) {
        std::vector<std::vector<int32_t>> choices;
        for (int32_t d = 0; d < 4; ++d) {
          choices.push_back(trainer.recorded_choices(layer, d, m));
          if (placed && routing == Routing::kLearned) {
            for (int32_t& e : choices.back()) e = kSlotOf[static_cast<size_t>(e)];
          }
          ASSERT_EQ(static_cast<int64_t>(choices.back().size()),
                    plan.micro_batch_tokens() * a.active_experts);
        }
        const RoutingCounts counts =
            count_routing(group, a.experts, a.active_experts, {choices.begin(), choices.end()});
        const ExchangeFlows flows = exchange_flows(group, counts);
        for (const auto* phase : {&flows.across, &flows.within}) {
          for (const ExchangeFlow& f : *phase) {
            const auto bytes = [&](OpKind kind, Pass pass) {
              return f.tokens * exchange_message(plan, kind, pass).count();
            };
            expected[{f.from, f.to}] +=
                bytes(OpKind::kDispatch, Pass::kForward) + bytes(OpKind::kCombine, Pass::kInput);
            expected[{f.to, f.from}] +=
                bytes(OpKind::kCombine, Pass::kForward) + bytes(OpKind::kDispatch, Pass::kInput);
          }
        }
      }
    }
    EXPECT_GE(expected.size(), 8u);
    // Gradient rings: dense gradients and weights go round all four ranks.
    const Stage& s = trainer.ranks().stage(0, 0, 0);
    const int64_t ring = ring_bytes(s.where.dense_size, 4, sizeof(float)).count() +
                         ring_bytes(s.where.dense_size, 4, bytes_of(precision).message).count();
    for (int64_t r = 0; r < 4; ++r) expected[{r, (r + 1) % 4}] += ring;
    EXPECT_EQ(links(trainer).counts(), expected);
  }
}

// Placed elsewhere, experts learn the same: only sums over a token's experts come in another order.
TEST(Emulator, PlacedExpertsTrainAlike) {
  const std::string file = placement_file();
  for (const Layout& layout :
       {Layout{.dp = 4, .ep = 4},
        Layout{.pp = 2, .dp = 4, .ep = 4, .schedule = ScheduleKind::kDualPipe}}) {
    Plan plan = small_plan(layout);
    plan.cluster.devices_per_node = 2;
    plan.training.micro_batches = 4;
    Trainer in_order(plan, test_text_path());
    plan.expert_placement = file;
    Trainer placed(plan, test_text_path());
    for (int64_t i = 0; i < 4; ++i) {
      const double loss = in_order.step(i).loss;
      EXPECT_NEAR(placed.step(i).loss, loss, 1e-5 * loss);
    }
    EXPECT_EQ(placed.last_results().expert_load, in_order.last_results().expert_load);
    const Stage& s = placed.ranks().stage(0, 1, 0);
    EXPECT_EQ(s.where.list[static_cast<size_t>(s.where.layers[1].experts[0].down)].name,
              "model.layers.1.mlp.experts.3.down_proj");
    // Of every expert the same weights, under its own name.
    const auto weights = [](Trainer& t) {
      std::map<std::string, std::vector<float>> all;
      for (NamedTensor& n : t.ranks().state(StateKind::kWeights)) all[n.name] = n.values;
      return all;
    };
    const auto expected = weights(in_order);
    for (const auto& [name, values] : weights(placed)) {
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(values[i], expected.at(name)[i], 2e-3) << name;
      }
    }
  }
}

TEST(Emulator, PlacementsThatDoNotFit) {
  Plan plan = small_plan({.dp = 4, .ep = 4});
  const auto error_of = [&](const std::vector<Placement>& layers) {
    const std::string file = placement_file();
    write_file(file, print_placement(layers));
    plan.expert_placement = file;
    try {
      placements_of(plan);
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const Placement in_order = Placement::in_order(8, 4);
  EXPECT_EQ(error_of({in_order}), "");
  EXPECT_EQ(error_of({in_order, in_order, in_order}), "");
  EXPECT_NE(error_of({in_order, in_order}).find("of 2 layers; the model has 3 with experts"),
            std::string::npos);
  const Placement replicas{
      .experts = 8, .slots = 3, .expert_of = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3}};
  EXPECT_NE(error_of({replicas}).find("12 slots for 8 experts"), std::string::npos);
}

TEST(Emulator, TheSameNumbersAsWithoutLinks) {
  Plan plan = small_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe});
  Trainer plain(plan, test_text_path());
  plan.cluster = linked(1e9, 1e9, 0.01);
  Trainer emulated(plan, test_text_path());
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(plain.step(i).loss, emulated.step(i).loss);
}

TEST(Routing, CountsOfAHandMadeBatch) {
  // Four members on two nodes, two experts each. Token 0 of member 0 chooses experts 0 and 3
  // (members 0 and 1, node 0); token 1 chooses 4 and 5 (member 2, node 1).
  Plan plan = small_plan({.dp = 4, .ep = 4});
  plan.cluster.devices_per_node = 2;
  const ExpertGroup group(plan, 0, 0);
  const std::vector<int32_t> chosen = {0, 3, 4, 5};
  const std::vector<int32_t> none;
  const RoutingCounts counts = count_routing(group, 8, 2, {chosen, none, none, none});
  EXPECT_EQ(counts.to_node[0], (std::vector<int64_t>{1, 1}));
  EXPECT_EQ(counts.to_rank[0], (std::vector<int64_t>{1, 1, 1, 0}));
  EXPECT_EQ(counts.rows[0], (std::vector<int64_t>{1, 0, 0, 1, 1, 1, 0, 0}));
  const ExchangeFlows flows = exchange_flows(group, counts);
  EXPECT_EQ(flows.across, (std::vector<ExchangeFlow>{{0, 2, 1}}));
  EXPECT_EQ(flows.within, (std::vector<ExchangeFlow>{{0, 1, 1}}));
}

TEST(Routing, BalancedChoicesLoadEveryExpertAlike) {
  Plan plan = small_plan({});
  const Architecture& a = plan.model.architecture;
  std::vector<int64_t> rows(static_cast<size_t>(a.experts), 0);
  for (int64_t t = 0; t < 64; ++t) {
    std::vector<int32_t> chosen(static_cast<size_t>(a.active_experts));
    balanced_choice(a, t, chosen);
    std::set<int32_t> distinct(chosen.begin(), chosen.end());
    std::set<int64_t> groups;
    for (const int32_t e : chosen) {
      ++rows[static_cast<size_t>(e)];
      groups.insert(e / (a.experts / a.groups));
    }
    EXPECT_EQ(static_cast<int64_t>(distinct.size()), a.active_experts);
    EXPECT_LE(static_cast<int64_t>(groups.size()), a.kept_groups);
  }
  for (const int64_t n : rows) EXPECT_EQ(n, 64 * a.active_experts / a.experts);
}

std::string hang_report(const Plan& plan, const std::string& op_name) {
  Trainer trainer(plan, test_text_path(), {.hang_timeout = Duration::seconds(0.5)});
  for (const Op& op : trainer.program().ops()) {
    if (to_string(op) == op_name) trainer.ranks().plant_fault(op.id);
  }
  const auto begin = Clock::now();
  try {
    trainer.step(0);
  } catch (const ScheduleError& e) {
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
    return e.what();
  }
  return "no report";
}

TEST(Hang, ReportNamesTheOpAndThePeer) {
  const Plan plan = small_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::k1F1B});
  // Rank 0 stops in its second micro-batch's attention; rank 1 waits for it in the all-to-all, the
  // next stage for its output.
  const std::string report = hang_report(plan, "attn.F s0 l1 m1");
  const auto expect = [&](const std::string& line) {
    EXPECT_NE(report.find(line), std::string::npos) << line << "\n" << report;
  };
  expect("no op has ended for 500 ms; step 0:");
  expect("rank 0 lane compute: attn.F s0 l1 m1 at work, does not end");
  expect("rank 1 lane a2a: dispatch.F s0 l1 m1 group ep waits for rank 0 to join");
  expect("rank 2 lane recv0: recv.F s1 m1 from 0 waits for rank 0 to send");
}

TEST(Hang, ACollectiveAtTheEndOfTheStep) {
  const Plan plan = small_plan({.dp = 2});
  const std::string report = hang_report(plan, "optimizer s0");
  EXPECT_NE(report.find("rank 1 lane a2a: param_gather s0 group replicas waits for rank 0 to join"),
            std::string::npos)
      << report;
}

}  // namespace
}  // namespace rehearse
