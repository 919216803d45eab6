#include "plan/program/program.h"

#include <cstdlib>
#include <functional>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/random.h"

namespace rehearse {
namespace {

Program::Spec spec(ScheduleKind kind, int64_t pp, int64_t n, std::vector<int64_t> layers) {
  return {.layout = {.pp = pp, .schedule = kind, .layers_per_stage = std::move(layers)},
          .micro_batches = n,
          .dense = LayerSet::leading(1)};
}

// To make the goldens anew: REHEARSE_UPDATE_GOLDENS=1 build/tests/plan_test
// --gtest_filter='Golden*', and say in the commit which ops moved and why.
void expect_golden(const std::string& name, const Program& program) {
  const std::string path = std::string(REHEARSE_SOURCE_DIR) + "/plan/program/goldens/" + name;
  const std::string text = print_program(program);
  if (std::getenv("REHEARSE_UPDATE_GOLDENS") != nullptr) write_file(path, text);
  EXPECT_EQ(text, read_file(path)) << path;
}

TEST(Golden, OneForwardOneBackward) {
  expect_golden("1f1b_pp2_n3.txt", Program::build(spec(ScheduleKind::k1F1B, 2, 3, {2, 1})));
}

TEST(Golden, ZeroBubble) {
  expect_golden("zb1p_pp2_n3.txt", Program::build(spec(ScheduleKind::kZB1P, 2, 3, {1, 1})));
}

TEST(Golden, DualPipe) {
  expect_golden("dualpipe_pp2_n4.txt", Program::build(spec(ScheduleKind::kDualPipe, 2, 4, {2, 1})));
}

// Matrices over two ranks, a sequence over two, experts over all four, each layer computed again.
TEST(Golden, SharedWork) {
  Program::Spec s = spec(ScheduleKind::k1F1B, 2, 2, {1, 1});
  s.layout.tp = s.layout.cp = 2;
  s.layout.ep = 4;
  s.shared_experts = true;
  s.recompute_layers = true;
  expect_golden("shared_pp2_n2.txt", Program::build(s));
}

TEST(Golden, DualPipeWholeCells) {
  Program::Spec s = spec(ScheduleKind::kDualPipe, 4, 10, {1, 1, 1, 1});
  s.granularity = Granularity::kCell;
  expect_golden("dualpipe_pp4_n10_cells.txt", Program::build(s));
}

TEST(Golden, InterleavedWholeCells) {
  Program::Spec s = spec(ScheduleKind::kInterleaved, 2, 4, {1, 1, 1, 1});
  s.granularity = Granularity::kCell;
  expect_golden("interleaved_pp2_n4_cells.txt", Program::build(s));
}

TEST(Golden, DualPipeVWholeCells) {
  Program::Spec s = spec(ScheduleKind::kDualPipeV, 2, 5, {1, 1, 1, 1});
  s.granularity = Granularity::kCell;
  expect_golden("dualpipev_pp2_n5_cells.txt", Program::build(s));
}

// The number of chunks stands in the text: ranks of four stages read back as such.
TEST(ProgramText, InterleavedChunksReadBack) {
  Program::Spec s = spec(ScheduleKind::kInterleaved, 2, 4, std::vector<int64_t>(8, 1));
  s.layout.chunks = 4;
  const Program program = Program::build(s);
  const std::string text = print_program(program);
  EXPECT_NE(text.find(" chunks=4 "), std::string::npos);
  EXPECT_EQ(parse_program(text, "p.txt"), program);
  std::string without = text;
  without.erase(without.find(" chunks=4"), std::string(" chunks=4").size());
  EXPECT_THROW(parse_program(without, "p.txt"), InputError);
}

// Specs of all that ranks may share, drawn: every choice stands in dozens of them, beside dozens of
// others.
std::vector<Program::Spec> shared_specs() {
  uint64_t state = 7;
  const auto pick = [&](uint64_t n) {
    state = split_mix(state);
    return static_cast<int64_t>(state % n);
  };
  std::vector<Program::Spec> specs;
  while (specs.size() < 200) {
    const auto kind = kSchedules.entries()[static_cast<size_t>(pick(kSchedules.size()))].value;
    const int64_t pp = int64_t{1} << pick(4);
    if (!facts_of(kind).check_ranks(pp).empty()) continue;
    Program::Spec s = spec(kind, pp, kind == ScheduleKind::kInterleaved ? 3 * pp : 2 * pp + 2, {});
    Layout& l = s.layout;
    if (kind == ScheduleKind::kInterleaved) l.chunks = 1 + pick(3);
    l.layers_per_stage.assign(static_cast<size_t>(l.stages()), 2);
    if (l.stages() > 2 && pick(2) == 0) l.layers_per_stage.front() = 0;
    if (l.stages() > 2 && pick(2) == 0) l.layers_per_stage.back() = 0;
    l.dp = 1 + pick(2);
    l.tp = int64_t{1} << pick(2);
    l.cp = int64_t{1} << pick(2);
    l.etp = l.stage_ranks() % 2 == 0 ? 1 + pick(2) : 1;
    l.ep = l.stage_ranks() / l.etp % 2 == 0 ? 1 + pick(2) : 1;
    l.context = pick(2) == 0 ? ContextKind::kGather : ContextKind::kRing;
    l.dispatcher = kDispatchers.entries()[static_cast<size_t>(pick(3))].value;
    l.rank_order = kRankOrders.entries()[static_cast<size_t>(pick(2))].value;
    l.zero_stage = pick(l.copies() == 2 ? 2 : 4);
    l.overlap_grad_reduce = l.copies() == 1 && pick(2) == 0;
    l.overlap_p2p = pick(2) == 0;
    const bool one_way = kind == ScheduleKind::k1F1B || kind == ScheduleKind::kInterleaved;
    l.overlap_all_to_all = one_way && pick(2) == 0;
    s.mtp = pick(4);
    s.shared_experts = l.tp > 1 && pick(2) == 0;
    s.recompute_layers = pick(2) == 0;
    s.tied_embeddings = !l.ends_meet() && pick(2) == 0;
    s.dense = LayerSet();
    for (int64_t layer = 0; layer < l.mtp_layer() + s.mtp; ++layer) {
      if (pick(3) == 0) s.dense.insert(layer);
    }
    l.sequence_parallel = pick(2) == 0;
    s.mode = pick(8) == 0 ? Mode::kForward : Mode::kTrain;
    specs.push_back(std::move(s));
  }
  return specs;
}

std::vector<Program::Spec> many_specs() {
  std::vector<Program::Spec> specs;
  for (const auto kind : {ScheduleKind::k1F1B,
                          ScheduleKind::kInterleaved,
                          ScheduleKind::kZB1P,
                          ScheduleKind::kDualPipe,
                          ScheduleKind::kDualPipeV}) {
    for (const int64_t pp : {1, 2, 4, 8}) {
      if (!facts_of(kind).check_ranks(pp).empty()) continue;
      for (const auto granularity : {Granularity::kOp, Granularity::kCell}) {
        for (const auto mode : {Mode::kTrain, Mode::kForward}) {
          const int64_t n = kind == ScheduleKind::kInterleaved ? 3 * pp : 2 * pp + 2;
          Program::Spec s = spec(kind, pp, n, {});
          s.layout.layers_per_stage.assign(static_cast<size_t>(s.layout.stages()), 2);
          s.layout.layers_per_stage.back() = 3;
          s.layout.dp = 4;
          s.layout.ep = 2;
          s.mtp = true;
          s.granularity = granularity;
          s.mode = mode;
          specs.push_back(s);
        }
      }
    }
  }
  for (Program::Spec& s : shared_specs()) specs.push_back(std::move(s));
  return specs;
}

TEST(Program, TextFormRoundTrips) {
  for (const Program::Spec& s : many_specs()) {
    const Program p = Program::build(s);
    const std::string text = print_program(p);
    const Program back = parse_program(text, "p.txt");
    EXPECT_TRUE(back == p);
    EXPECT_EQ(print_program(back), text);
  }
}

TEST(Program, EveryScheduleIsValid) {
  for (const Program::Spec& s : many_specs()) {
    const Program p = Program::build(s);
    EXPECT_NO_THROW(validate(p)) << print_program(p).substr(0, 400);
    EXPECT_NO_THROW(require_whole(p)) << print_program(p).substr(0, 400);
  }
}

TEST(Program, MaterializedListHoldsEveryReplica) {
  Program::Spec s = spec(ScheduleKind::kDualPipe, 2, 4, {2, 1});
  s.layout.dp = 2;
  const Program p = Program::build(s);
  const auto all = materialize(p);
  ASSERT_EQ(static_cast<int64_t>(all.size()), p.global_size());
  const auto half = static_cast<int64_t>(p.ops().size());
  for (int64_t i = 0; i < half; ++i) {
    const MaterializedOp& first = all[static_cast<size_t>(i)];
    const MaterializedOp& second = all[static_cast<size_t>(i + half)];
    EXPECT_EQ(second.id, first.id + half);
    EXPECT_EQ(second.rank, first.rank + 1);  // data ranks of a stage are neighbours
    EXPECT_EQ(second.op, first.op);
    ASSERT_EQ(second.dependencies.size(), first.dependencies.size());
  }
}

TEST(Program, GroupsFollowTheLayout) {
  Program::Spec s = spec(ScheduleKind::kDualPipe, 2, 4, {2, 2});
  s.layout.dp = 4;
  s.layout.ep = 2;
  const Program p = Program::build(s);
  const auto ranks = [&](Group group, int32_t pp_rank, int32_t data_rank) {
    std::vector<int64_t> list;
    const Op op{.pp_rank = pp_rank, .group = group, .stage = 0};
    for (const Place& place : p.members(op, data_rank)) list.push_back(p.global_rank(place));
    return list;
  };
  using Ranks = std::vector<int64_t>;
  EXPECT_EQ(ranks(Group::kNone, 1, 2), (Ranks{6}));
  EXPECT_EQ(ranks(Group::kExpertParallel, 1, 3), (Ranks{6, 7}));
  // Stage 0 stands on both pipeline ranks: 2 x DP replicas, 2 x DP / EP of the same experts.
  EXPECT_EQ(ranks(Group::kStageReplicas, 0, 1), (Ranks{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(ranks(Group::kExpertReplicas, 0, 1), (Ranks{1, 3, 5, 7}));
  EXPECT_EQ(ranks(Group::kWorld, 0, 0).size(), 8u);
}

// Replaces the first `from` in the text form and parses that.
Program edited(const Program& p, const std::string& from, const std::string& to) {
  std::string text = print_program(p);
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return parse_program(text.replace(at, from.size(), to), "p.txt");
}

std::string schedule_error(const std::function<void()>& f) {
  try {
    f();
  } catch (const ScheduleError& e) {
    return e.what();
  }
  return "no error";
}

TEST(Validate, NamesWhoWaitsForWhomInADeadlock) {
  const Program p = Program::build(spec(ScheduleKind::k1F1B, 2, 2, {1, 1}));
  // The first forward of rank 0 waits for the gradient that its own output leads to.
  const Program stuck = edited(p, "embed.F s0 d0 m0", "embed.F s0 d0 m0 <- 11");
  const std::string error = schedule_error([&] { validate(stuck); });
  EXPECT_EQ(error.substr(0, error.find('\n')), "the Program cannot run to its end:");
  EXPECT_NE(error.find("rank 0 lane compute: next op 0 (embed.F s0 m0, rank 0, lane compute) waits "
                       "for op 11"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("rank 1 lane recv0: next op"), std::string::npos) << error;
}

TEST(Validate, FindsMessagesThatDoNotPair) {
  const Program p = Program::build(spec(ScheduleKind::k1F1B, 2, 2, {1, 1}));
  EXPECT_NE(schedule_error([&] {
              validate(edited(p, "send.F s0 d0 m0 p1", "send.F s0 d0 m1 p1"));
            }).find("which is not its message"),
            std::string::npos);
}

TEST(Validate, FindsCollectivesInDifferentOrders) {
  const Program p = Program::build(spec(ScheduleKind::kDualPipe, 2, 4, {1, 1}));
  std::string text = print_program(p);
  // Rank 0 reduces stage 1 before stage 0.
  const size_t a = text.find("grad_reduce s0 d0");
  const size_t b = text.find("grad_reduce s1 d1");
  ASSERT_LT(a, b);
  text.replace(b, 17, "grad_reduce s0 d0");
  text.replace(a, 17, "grad_reduce s1 d1");
  EXPECT_NE(schedule_error([&] {
              validate(parse_program(text, "p.txt"));
            }).find("enqueue the collectives they share in different orders"),
            std::string::npos);
}

// Every cut of the file is found, at lines' ends too.
TEST(RequireWhole, NoPrefixIsAProgram) {
  for (const Granularity granularity : {Granularity::kOp, Granularity::kCell}) {
    Program::Spec s = spec(ScheduleKind::kDualPipe, 2, 4, {1, 1});
    s.granularity = granularity;
    const std::string text = print_program(Program::build(s));
    EXPECT_NO_THROW(require_whole(parse_program(text, "p.txt")));
    for (size_t n = 0; n < text.size(); ++n) {
      try {
        const Program p = parse_program(text.substr(0, n), "p.txt");
        require_whole(p);
        validate(p);
        ADD_FAILURE() << "a program of the first " << n << " bytes";
      } catch (const InputError&) {
      } catch (const ScheduleError&) {
      }
    }
  }
}

TEST(RequireWhole, OpsAreOfTheirCellsAndCellsOfTheSchedule) {
  const Program p = Program::build(spec(ScheduleKind::k1F1B, 2, 2, {1, 1}));
  EXPECT_NO_THROW(require_whole(p));
  const auto error = [&](const std::string& from, const std::string& to) {
    return schedule_error([&] { require_whole(edited(p, from, to)); });
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(error("cell F0.1", "cell F0.0"), "rank 0 has"));
  EXPECT_TRUE(
      has(error("attn.F s0 d0 l0 m0", "attn.F s0 d0 l1 m0"), "cell F0.0 of rank 0 has 0 x"));
  EXPECT_TRUE(has(error("compute attn.F", "compute mlp.F"), "expected 1"));
  EXPECT_TRUE(has(error("micro_batches=2", "micro_batches=4"), "rank 0 has no cell B0.2"));
  EXPECT_TRUE(has(error("micro_batches=2", "micro_batches=2000000000"), "micro-batches"));
  EXPECT_TRUE(has(error("layers=1,1", "layers=1,1000000000"), "too few"));
  EXPECT_TRUE(has(error("layers=1,1", "layers=1,2"), "expected"));
  // A dependency gone.
  const std::string text = print_program(p);
  const size_t arrow = text.find(" <- ");
  const std::string cut = text.substr(0, arrow) + text.substr(text.find('\n', arrow));
  EXPECT_TRUE(has(schedule_error([&] { require_whole(parse_program(cut, "p.txt")); }),
                  "whose result it needs"));
}

TEST(ProgramText, ErrorsNameTheLine) {
  const auto error = [](const std::string& text) -> std::string {
    try {
      parse_program(text, "p.txt");
    } catch (const InputError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(error("hello\n"),
            "p.txt:1:1: expected 'rehearse-program 1'\n"
            "    hello\n"
            "    ^");
  const Program p = Program::build(spec(ScheduleKind::k1F1B, 1, 1, {2}));
  std::string text = print_program(p);
  text.replace(text.find("compute embed"), 13, "compote embed");
  EXPECT_EQ(error(text),
            "p.txt:6:1: unknown lane 'compote'\n"
            "      0 compote embed.F s0 d0 m0\n"
            "    ^");
}

}  // namespace
}  // namespace rehearse
