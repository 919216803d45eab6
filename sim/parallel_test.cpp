// Ranks that share matrices (TP, ETP), a sequence (CP), tokens (EP, by each dispatcher) and weights
// (ZeRO): what they send, on paper, and that every way of simulating them gives the same.

#include <array>
#include <functional>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "plan/program/memory.h"
#include "plan/program/op_work.h"
#include "plan/testing.h"
#include "sim/expert_load.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

Cluster nodes_of(int64_t nodes, int64_t devices, const std::string& faults = "") {
  return parse_cluster(
      fmt::format(
          "name: gpus\nnodes: {}\ndevices_per_node: {}\ndevice:\n  kind: gpu\n  peak: 1 "
          "PFLOP/s\n  memory_bandwidth: 1000 TB/s\n  memory: 1 GB\nnode_link:\n  bandwidth: "
          "1 GB/s\n  latency: 1 us\nnetwork:\n  bandwidth: 100 MB/s\n  latency: 2 us\n{}",
          nodes,
          devices,
          faults),
      "gpus.yaml");
}

Plan plan_on(Layout layout, int64_t nodes, int64_t devices) {
  Plan plan = small_plan(std::move(layout));
  plan.training.precision = Precision::kBf16;
  plan.training.sequence_length = 64;
  plan.cluster = nodes_of(nodes, devices);
  return plan;
}

Bytes message_of(const Plan& plan, const Program& program, const Op& op) {
  return OpWork(plan).message(op, static_cast<int64_t>(program.members(op, 0).size()));
}

// Every op that `picks` takes: how many, the bytes of each (all alike) and its time.
struct Seen {
  int64_t count = 0;
  int64_t bytes = 0;
  double least = 1e9, most = 0;
};
Seen see(const Plan& plan, const std::function<bool(const Op&)>& picks, bool alike = true) {
  const Program program = build_program(plan);
  const Timeline t = simulate(plan, program, std::nullopt).timeline;
  Seen s;
  for (const Op& op : program.ops()) {
    if (!picks(op)) continue;
    const int64_t bytes = message_of(plan, program, op).count();
    if (s.count++ > 0 && alike) {
      EXPECT_EQ(bytes, s.bytes) << to_string(op);
    }
    s.bytes = bytes;
    const Span& span = t.spans[static_cast<size_t>(op.id)];
    s.least = std::min(s.least, (span.end - span.begin).seconds());
    s.most = std::max(s.most, (span.end - span.begin).seconds());
  }
  return s;
}

// Latencies are waited for once, also where other traffic comes while they pass.
TEST(Parallel, LatencyIsPaidOnce) {
  for (const Layout& layout : {Layout{.dp = 2, .tp = 2, .zero_stage = 3},
                               Layout{.pp = 2, .tp = 2},
                               Layout{.tp = 2, .cp = 2, .context = ContextKind::kRing},
                               Layout{.dp = 2, .ep = 2, .tp = 2}}) {
    for (const double microseconds : {1, 3, 10, 30, 100, 1000}) {
      Plan plan = plan_on(layout, 1, 4);
      plan.layout.layers_per_stage = even_layers(4, layout.stages());
      plan.cluster.peak = FlopsPerSecond(1e11);
      plan.cluster.node_link = Link{BytesPerSecond(1e14), Duration::seconds(microseconds * 1e-6)};
      const Seen collective = see(
          plan, [](const Op& op) { return op.lane == Lane::kTensor; }, /*alike=*/false);
      EXPECT_GT(collective.count, 0);
      EXPECT_NEAR(collective.most * 1e6, microseconds, 0.01) << ranks_text(layout);
    }
  }
}

// An expert that spans two nodes: its EP group's members skip nodes.
TEST(Parallel, ExpertsWiderThanANode) {
  Plan plan = plan_on({.dp = 8, .ep = 2, .etp = 4}, 4, 2);
  plan.model.architecture.shared_experts = 0;
  const ExpertGroup group(plan, 0, 0);
  EXPECT_EQ(group.nodes, 2);
  EXPECT_EQ(group.per_node, 1);
  const Seen dispatch = see(plan, [](const Op& op) { return op.kind == OpKind::kDispatch; });
  EXPECT_GT(dispatch.least, 0);
}

// Between matrices each of t ranks has s b h / t of a micro-batch; a gather or a scatter moves
// (t - 1) / t of s b h per rank (Korthikanti et al. 2022, section 4.2.2), in 16 bits.
TEST(Parallel, TensorGathersAndScatters) {
  Plan plan = plan_on({.tp = 4}, 1, 4);
  plan.model.architecture.heads = 4;
  const int64_t s = 64, b = 2, h = 32, t = 4;
  const auto expected = [&](int64_t width) { return s * b * width / t * (t - 1) * 2; };
  const auto seconds = [&](int64_t bytes) {
    // Over a link of 1 GB/s in t - 1 steps of 1 us.
    return static_cast<double>(bytes) / 1e9 + 3e-6;
  };
  for (const Pass pass : {Pass::kForward, Pass::kInput}) {
    const Seen scatter = see(plan, [&](const Op& op) {
      return op.kind == OpKind::kScatter && op.of == OpKind::kAttn && op.pass == pass;
    });
    EXPECT_EQ(scatter.count, 4 * 8);  // layers x micro-batches
    EXPECT_EQ(scatter.bytes, expected(h));
    EXPECT_NEAR(scatter.least, seconds(expected(h)), 1e-9);
  }
  // MLA's ranks gather compressed queries, keys and values: 24 + 16 + 4 of 32 values would be more
  // than the input's, but it is what follows from the report's split.
  const Seen gather = see(plan, [](const Op& op) {
    return op.kind == OpKind::kGather && op.of == OpKind::kAttn && op.pass == Pass::kForward;
  });
  EXPECT_EQ(gather.bytes, expected(24 + 16 + 4));
  // What W reads of the others' inputs.
  const Seen again = see(plan, [](const Op& op) {
    return op.kind == OpKind::kGather && op.of == OpKind::kMlp && op.pass == Pass::kWeight &&
           op.layer == 0;
  });
  EXPECT_EQ(again.count, 8);
  EXPECT_EQ(again.bytes, expected(h));
  // Without sequence parallelism a dense layer all-reduces twice, F and B: 2 (t - 1) / t s b h
  // each, as many bytes as gather and scatter (section 4.2.2).
  plan.layout.sequence_parallel = false;
  plan.model.architecture.experts = 0;
  plan.model.architecture.dense = LayerSet::leading(4);
  for (const auto& [kind, pass] :
       {std::pair{OpKind::kScatter, Pass::kForward}, std::pair{OpKind::kGather, Pass::kInput}}) {
    const Seen sum = see(plan, [&, kind = kind, pass = pass](const Op& op) {
      return op.kind == kind && op.pass == pass && op.of == OpKind::kMlp;
    });
    EXPECT_EQ(sum.count, 4 * 8);
    EXPECT_EQ(sum.bytes, 2 * expected(h));
  }
  EXPECT_EQ(see(plan, [](const Op& op) { return op.of && op.pass == Pass::kWeight; }).count, 0);
}

// Keys and values of the others: (c - 1) / c of a sequence's s b (kv heads) 2 d, in 16 bits; in
// backward once more, and their gradients back. A ring passes on as many.
TEST(Parallel, ContextGathersAndRings) {
  for (const ContextKind kind : {ContextKind::kGather, ContextKind::kRing}) {
    Plan plan = plan_on({.cp = 4, .context = kind}, 1, 4);
    Architecture& a = plan.model.architecture;
    a.attention = AttentionKind::kGrouped;
    a.kv_heads = 2;
    a.heads = 4;
    a.qk_rope = a.v_head = 8;
    a.qk_nope = 0;
    const int64_t bytes = 64 * 2 * (2 * 2 * 8) / 4 * 3 * 2;
    const OpKind op_kind = kind == ContextKind::kRing ? OpKind::kRing : OpKind::kGather;
    for (const Pass pass : {Pass::kForward, Pass::kInput}) {
      const Seen seen =
          see(plan, [&](const Op& op) { return op.kind == op_kind && op.pass == pass; });
      EXPECT_EQ(seen.count, 4 * 8);
      EXPECT_EQ(seen.bytes, bytes * (pass == Pass::kForward ? 1 : 2));
      EXPECT_NEAR(seen.most, static_cast<double>(seen.bytes) / 1e9 + 3e-6, 1e-9);
    }
    EXPECT_EQ(see(plan, [](const Op& op) { return op.kind == OpKind::kQkv; }).count,
              kind == ContextKind::kRing ? 2 * 4 * 8 : 0);
  }
}

// What leaves a rank of an EP group of n = 2 nodes x 2, of its 128 tokens, balanced over 8 experts
// of which each token has 2. two_hop: each token once to the other node where it has an expert;
// all_to_all: each of its rows for experts elsewhere; all_gather: every token to all.
TEST(Parallel, BytesOfEachDispatcher) {
  const auto sums = [](Dispatcher dispatcher, int64_t tp) {
    Plan plan = plan_on({.dp = 4 / tp, .ep = 4, .tp = tp, .dispatcher = dispatcher}, 2, 2);
    plan.model.architecture.groups = plan.model.architecture.kept_groups = 1;
    ExpertLoad load(plan);
    const GroupLoad& g = load.of(1, 0, 0);
    int64_t across = 0, within = 0;
    for (const ExchangeFlow& f : g.flows.across) across += f.tokens;
    for (const ExchangeFlow& f : g.flows.within) within += f.tokens;
    return std::pair(across, within);
  };
  for (const int64_t tp : {1, 2}) {
    const int64_t tokens = 128 / tp;  // of each rank: tensor-parallel ranks dispatch each its own
    // Both of a token's experts are among the 4 of 8 on a rank's own node with probability
    // C(4, 2) / C(8, 2); each of its rows goes to the other node as often as not.
    const double reached = 1 - 6.0 / 28;
    EXPECT_EQ(sums(Dispatcher::kTwoHop, tp).first,
              4 * std::llround(static_cast<double>(tokens) * reached));
    EXPECT_EQ(sums(Dispatcher::kAllToAll, tp).first, 4 * tokens * 2 / 2);
    EXPECT_EQ(sums(Dispatcher::kAllGather, tp).first, 4 * tokens);
    // Over NVLink all_gather passes every node's tokens on to the one other rank there.
    EXPECT_EQ(sums(Dispatcher::kAllGather, tp).second, 4 * 2 * tokens);
    // Those of both nodes, of which a rank with 2 of 8 experts has some with probability
    // 1 - C(6, 2) / C(8, 2).
    EXPECT_EQ(sums(Dispatcher::kTwoHop, tp).second,
              4 * std::llround(2 * static_cast<double>(tokens) * (1 - 15.0 / 28)));
  }
  const Plan plan = plan_on({.dp = 4, .ep = 4, .dispatcher = Dispatcher::kAllToAll}, 2, 2);
  EXPECT_EQ(exchange_message(plan, OpKind::kDispatch, Pass::kForward), Bytes(32 * 2 + 4));
  EXPECT_EQ(exchange_message(plan, OpKind::kCombine, Pass::kForward), Bytes(32 * 2));
}

// ZeRO-3 gathers (d - 1) / d of a layer's weights in 16 bits before its F and its B, and reduces
// as much of its gradients in 32 bits behind each micro-batch's B (Rajbhandari et al. 2020, section
// 7: 3 times the weights in all, in units of elements); ZeRO-2 reduces alone.
TEST(Parallel, ZeroGathersWeightsAndReducesGradients) {
  Plan plan = plan_on({.dp = 4, .zero_stage = 3}, 1, 4);
  const int64_t elements = layer_weights(plan, 1).dense / 4 * 3;
  const auto of = [&](OpKind kind, Group group) {
    return see(plan,
               [=](const Op& op) { return op.kind == kind && op.group == group && op.layer == 1; });
  };
  EXPECT_EQ(of(OpKind::kParamGather, Group::kStageReplicas).count, 2 * 8);
  EXPECT_EQ(of(OpKind::kParamGather, Group::kStageReplicas).bytes, elements * 2);
  EXPECT_EQ(of(OpKind::kGradReduce, Group::kStageReplicas).count, 8);
  EXPECT_EQ(of(OpKind::kGradReduce, Group::kStageReplicas).bytes, elements * 4);
  EXPECT_EQ(of(OpKind::kParamGather, Group::kExpertReplicas).bytes,
            layer_weights(plan, 1).expert / 4 * 3 * 2);
  plan.layout.zero_stage = 2;
  EXPECT_EQ(of(OpKind::kParamGather, Group::kStageReplicas).count, 0);
  EXPECT_EQ(of(OpKind::kGradReduce, Group::kStageReplicas).count, 8);
  plan.layout.zero_stage = 1;
  EXPECT_EQ(of(OpKind::kGradReduce, Group::kStageReplicas).count, 0);
  plan.layout.overlap_grad_reduce = true;
  EXPECT_EQ(of(OpKind::kGradReduce, Group::kStageReplicas).count, 1);
  EXPECT_EQ(of(OpKind::kGradReduce, Group::kStageReplicas).bytes, elements * 4);
}

// All gradients of a stage are reduced once, whichever way: what layers and ends sum to is the
// stage's.
TEST(Parallel, LayersAndEndsAreTheStage) {
  Plan plan = plan_on({.pp = 2, .dp = 4, .ep = 2, .overlap_grad_reduce = true}, 2, 4);
  plan.model.architecture.mtp_depth = 2;
  plan.model.architecture.tied_embeddings = true;
  for (const int64_t stage : {0, 1}) {
    int64_t sum = stage_ends(plan, stage);
    const int64_t last = stage == 1 ? 6 : plan.layout.end_layer(0);
    for (int64_t layer = plan.layout.first_layer(stage); layer < last; ++layer) {
      sum += layer_weights(plan, layer).dense;
    }
    EXPECT_EQ(sum, stage_weights(plan, stage).dense) << stage;
  }
  const Program program = build_program(plan);
  int64_t bytes = 0, embeddings = 0;
  for (const Op& op : program.ops()) {
    if (op.kind != OpKind::kGradReduce || op.pp_rank != 1) continue;
    if (op.group == Group::kStageReplicas) bytes += message_of(plan, program, op).count();
    if (op.group == Group::kEmbeddings) embeddings += message_of(plan, program, op).count();
  }
  EXPECT_NEAR(
      static_cast<double>(bytes), static_cast<double>(stage_weights(plan, 1).dense * 3), 30);
  // The table's gradient, summed over the two ranks that hold it: there and back.
  EXPECT_EQ(embeddings, 256 * 32 * 4);
}

// A layer that is computed again takes its forward's time once more.
TEST(Parallel, RecomputationTakesAForward) {
  Plan plan = plan_on({.dp = 4, .ep = 4}, 2, 2);
  const auto cells = [&] {
    const Summary s = simulate(plan, build_program(plan), std::nullopt).summary;
    return std::pair(s.ranks[0].f, s.ranks[0].b);
  };
  plan.training.recompute = {.norms = false, .up_projections = false, .activations = false};
  const auto kept = cells();
  plan.training.recompute.layer = true;
  const auto again = cells();
  EXPECT_EQ(again.first, kept.first);
  // F also has the embedding and the head, nanoseconds here.
  EXPECT_NEAR((again.second - kept.second) / kept.first, 1, 0.001);
}

// A message that nothing may overlap holds up the next cell.
TEST(Parallel, MessagesThatAreNotOverlapped) {
  Plan plan = plan_on({.pp = 4}, 4, 1);
  plan.cluster.peak = FlopsPerSecond(1e9);  // a cell takes milliseconds
  const auto step = [&] { return simulate(plan, build_program(plan), std::nullopt).summary.step; };
  const Duration overlapped = step();
  plan.layout.overlap_p2p = false;
  const Duration waiting = step();
  // At least one message's time, s b h in 16 bits over 100 MB/s, for every micro-batch but one.
  EXPECT_GT((waiting - overlapped).seconds(), 7 * 64 * 2 * 32 * 2 / 100e6);
}

std::vector<Plan> shared_plans() {
  std::vector<Plan> plans;
  for (const Layout& l :
       {Layout{.dp = 4, .tp = 2},
        Layout{.pp = 2, .dp = 2, .ep = 4, .tp = 2, .schedule = ScheduleKind::kDualPipe},
        Layout{.pp = 2, .dp = 2, .ep = 4, .tp = 2, .cp = 2},
        Layout{.pp = 2, .dp = 2, .ep = 4, .tp = 2, .cp = 2, .context = ContextKind::kRing},
        Layout{.dp = 4, .ep = 4, .tp = 2, .etp = 2},
        Layout{.dp = 2, .ep = 2, .tp = 2, .cp = 2, .etp = 2, .zero_stage = 3},
        Layout{.pp = 4, .dp = 4, .ep = 2, .zero_stage = 2, .overlap_p2p = false},
        Layout{.pp = 2,
        .dp = 8,
        .ep = 8,
        .dispatcher = Dispatcher::kAllToAll,
        .overlap_grad_reduce = true,
        .overlap_all_to_all = true},
        Layout{.pp = 2, .dp = 8, .ep = 4, .dispatcher = Dispatcher::kAllGather}}) {
    const int64_t nodes = l.world() / 4;
    plans.push_back(plan_on(l, nodes, 4));
    plans.back().cluster = nodes_of(nodes, 4, "faults:\n  - {device: 3, speed: 0.7}\n");
    plans.push_back(plan_on(l, nodes, 4));
    plans.back().training.recompute.layer = true;
    plans.push_back(plan_on(l, nodes, 4));
    plans.back().expert_load = {.synthetic = true, .skew = 0.3, .varies = LoadVaries::kMicroBatch};
    plans.push_back(plan_on(l, nodes, 4));
    plans.back().layout.rank_order = RankOrder::kPipelineFirst;
    if (l.world() % 8 == 0) plans.push_back(plan_on(l, l.world() / 2, 2));  // groups across nodes
  }
  return plans;
}

// PP counted before DP: a pipeline's messages stay on its node, a stage's sums cross the network.
TEST(Parallel, OrderOfRanksPutsOthersOnANode) {
  Plan plan = plan_on({.pp = 4, .dp = 4}, 4, 4);
  const auto longest = [&](const std::function<bool(const Op&)>& picks) {
    return see(plan, picks, false).most;
  };
  const auto sends = [](const Op& op) { return op.kind == OpKind::kSend; };
  const auto sums = [](const Op& op) { return op.group == Group::kStageReplicas; };
  const double far_send = longest(sends);
  const double near_sum = longest(sums);
  plan.layout.rank_order = RankOrder::kPipelineFirst;
  // 1 GB/s within a node, 0.1 GB/s between nodes.
  EXPECT_LT(longest(sends), 0.5 * far_send);
  EXPECT_GT(longest(sums), 2 * near_sum);
  for (int64_t rank = 0; rank < 16; ++rank) {
    EXPECT_EQ(plan.layout.rank_of(plan.layout.place_of(rank)), rank);
    EXPECT_EQ(plan.layout.place_of(rank).pp_rank, rank % 4);
  }
}

// The second half of a TP group is done with its experts, and waits for the first, whose ranks have
// still to come to theirs.
TEST(Parallel, HalvesOfATensorGroupShareExpertsMatrices) {
  const Layout l{.dp = 2, .ep = 2, .tp = 4, .etp = 2};
  Plan plan = plan_on(l, 2, 4);
  plan.cluster = nodes_of(2, 4, "faults:\n  - {device: 0, speed: 0.5}\n");
  plan.cluster.peak = FlopsPerSecond(1e9);  // experts take milliseconds
  const Program program = build_program(plan);
  const Timeline t = simulate(plan, program, std::nullopt).timeline;
  int64_t collectives = 0;
  for (const Op& op : program.ops()) {
    if (op.group != Group::kTensorParallel && op.group != Group::kExpertTensor) continue;
    const RankGroup group = *group_in_stage(op.group, l);
    for (int64_t d = 0; d < l.stage_ranks(); ++d) {
      const auto span = [&](int64_t data_rank) {
        return t
            .spans[static_cast<size_t>(program.global_id(op.id, static_cast<int32_t>(data_rank)))];
      };
      EXPECT_EQ(span(d).end, span(group.first(d)).end) << to_string(op);
      ++collectives;
    }
  }
  EXPECT_GT(collectives, 0);
}

TEST(Parallel, FoldedThreadedAndWholeAreTheSame) {
  for (const Plan& plan : shared_plans()) {
    const Program program = build_program(plan);
    const Timeline whole = simulate(plan, program, std::nullopt).timeline;
    for (const SimulateOptions& o :
         {SimulateOptions{.fold = true}, SimulateOptions{.memoise = false, .threads = 2}}) {
      const Timeline other = simulate(plan, program, std::nullopt, o).timeline;
      for (size_t i = 0; i < whole.spans.size(); ++i) {
        const Span& a = whole.spans[i];
        const Span& b = other.spans[i];
        ASSERT_TRUE(a == b) << ranks_text(plan.layout) << (o.fold ? " folded " : " threads ")
                            << to_string(program.op(static_cast<OpId>(i))) << " of data rank "
                            << program.data_rank(static_cast<OpId>(i)) << " ends at "
                            << a.end.picoseconds() << " and " << b.end.picoseconds();
      }
    }
    EXPECT_GT(whole.step(), Duration());
  }
}

// Exposed time, told span by span as they come, is what the whole timeline says: picosecond by
// picosecond over each cell's ops.
TEST(Parallel, ExposedTimeIsWhatTheTimelineShows) {
  for (const Plan& plan : shared_plans()) {
    const Program program = build_program(plan);
    const Prediction p = simulate(plan, program, std::nullopt);
    for (int32_t r = 0; r < plan.layout.pp; ++r) {
      std::vector<std::pair<int64_t, std::array<int, 3>>> edges;
      bool shares = false;
      for (const Op& op : program.ops()) {
        const int kind = is_cell_compute(op.kind)  ? 0
                         : is_shared_work(op.kind) ? 1
                         : is_all_to_all(op.kind)  ? 2
                                                   : -1;
        if (op.pp_rank != r || kind < 0) continue;
        shares |= kind == 1;
        const Span& s = p.timeline.spans[static_cast<size_t>(op.id)];
        std::array<int, 3> step{};
        step[static_cast<size_t>(kind)] = 1;
        edges.emplace_back(s.begin.picoseconds(), step);
        step[static_cast<size_t>(kind)] = -1;
        edges.emplace_back(s.end.picoseconds(), step);
      }
      std::sort(edges.begin(), edges.end());
      std::array<int, 3> now{};
      int64_t exchange = 0, shared = 0, last = 0;
      for (const auto& [at, step] : edges) {
        if (now[0] == 0 && now[1] == 0 && now[2] > 0) exchange += at - last;
        if (now[0] == 0 && now[1] > 0) shared += at - last;
        for (size_t k = 0; k < 3; ++k) now[k] += step[k];
        last = at;
      }
      const Breakdown& b = p.summary.ranks[static_cast<size_t>(plan.layout.rank_of(r, 0))];
      EXPECT_EQ(b.exposed_comm.picoseconds(), exchange) << ranks_text(plan.layout);
      EXPECT_EQ(b.exposed_shared.picoseconds(), shared) << ranks_text(plan.layout) << shares;
    }
  }
}

}  // namespace
}  // namespace rehearse
