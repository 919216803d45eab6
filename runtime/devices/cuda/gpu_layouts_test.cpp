// Several ranks that share an imitated card: every layout gives one rank's training, the same bits
// in any order of its streams, and what is wrong between ranks is found.

#include <gtest/gtest.h>

#include "plan/program/memory.h"
#include "plan/program/op_work.h"
#include "plan/routing/counts.h"
#include "plan/testing.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/devices/cuda/testing.h"

namespace rehearse {
namespace {

// 64 tokens a step, 16 a micro-batch; two layers, one with experts, or four where stages ask for
// it.
Plan card_plan(Layout layout) {
  Plan plan = small_plan({});
  const int64_t stages = layout.stages();
  plan.model.architecture.layers = stages > 2 ? 4 : 2;
  layout.layers_per_stage = even_layers(plan.model.architecture.layers, stages);
  plan.layout = std::move(layout);
  plan.training.micro_batch_size = 1;
  plan.training.micro_batches = 4 / plan.layout.dp;
  plan.training.balance_loss = 0.01;
  plan.training.gradient_clip = 0.5;
  return plan;
}

class CardLayouts : public testing::TestWithParam<Layout> {};

TEST_P(CardLayouts, TrainAsOneRankInAnyOrder) {
  const Plan plan = card_plan(GetParam());
  Plan alone = plan;
  alone.layout = {.layers_per_stage = {plan.model.architecture.layers}};
  alone.training.micro_batches = 4;
  const Trained one = run_on_cores(alone, 2);
  const Trained first = run_on_card(plan, 2, 0);
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(first.losses[i], one.losses[i], 1e-5 * one.losses[i]);
    EXPECT_NEAR(first.norms[i], one.norms[i], 2e-4 * one.norms[i]);
  }
  EXPECT_EQ(first.loads.front(), one.loads.front());
  const bool all = std::getenv("REHEARSE_LONG_TESTS") != nullptr;
  for (const uint64_t seed : all ? std::vector<uint64_t>{1, 2, 3} : std::vector<uint64_t>{1}) {
    expect_same_bits(run_on_card(plan, 2, seed), first);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Runtime,
    CardLayouts,
    testing::Values(Layout{.dp = 2, .ep = 2},
                    Layout{.dp = 2},
                    Layout{.pp = 2, .schedule = ScheduleKind::k1F1B},
                    Layout{.pp = 2, .schedule = ScheduleKind::kInterleaved, .chunks = 2},
                    Layout{.pp = 2, .schedule = ScheduleKind::kZB1P},
                    Layout{.pp = 2, .schedule = ScheduleKind::kDualPipe},
                    Layout{.pp = 2, .schedule = ScheduleKind::kDualPipeV},
                    Layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::k1F1B},
                    Layout{.pp = 4, .schedule = ScheduleKind::k1F1B},
                    Layout{.dp = 2, .zero_stage = 0}),
    layout_name);

// Four ranks on two nodes: tokens are forwarded, sums rounded on their way as on cores, and every
// byte that comes is one that routing's counts ask for.
TEST(CardExchange, BytesOnEveryLinkEqualTheRoutingCountsArithmetic) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp8}) {
    Plan plan = card_plan({.dp = 4, .ep = 4});
    plan.cluster.devices_per_node = 2;
    plan.training.precision = precision;
    plan.training.balance_loss = 0;
    const Architecture& a = plan.model.architecture;
    CardTrainer card(plan, {.seed = 1});
    card.trainer.record_choices(true);
    const double loss = card.trainer.step(0).loss;
    Trainer cores(plan, test_text_path());
    EXPECT_NEAR(loss, cores.step(0).loss, (precision == Precision::kFp32 ? 1e-6 : 1e-3) * loss);
    const ExpertGroup group(plan, 0, 0);
    ASSERT_EQ(group.nodes, 2);
    std::vector<std::vector<int32_t>> choices;
    for (int32_t d = 0; d < 4; ++d) {
      choices.push_back(card.trainer.recorded_choices(a.dense_layers(), d, 0));
    }
    const RoutingCounts counts =
        count_routing(group, a.experts, a.active_experts, {choices.begin(), choices.end()});
    const ExchangeFlows flows = exchange_flows(group, counts);
    std::map<std::pair<int64_t, int64_t>, int64_t> expected;
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
    EXPECT_GE(expected.size(), 6u);
    for (int64_t from = 0; from < 4; ++from) {
      for (int64_t to = 0; to < 4; ++to) {
        const auto found = expected.find({from, to});
        EXPECT_EQ(card.device->traffic(from, to), found == expected.end() ? 0 : found->second)
            << from << " to " << to;
      }
    }
  }
}

// Fewer streams than lanes: the same bits.
TEST(CardStreams, MayBeShared) {
  const Plan plan = card_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe});
  const Trained own = run_on_card(plan, 1, 0);
  for (const int32_t streams : {12, 5, 1}) {
    CardTrainer few(plan, {.streams = streams, .seed = 3}, {.streams = streams});
    expect_same_bits(run(few.trainer, 1), own);
  }
}

TEST(CardStreams, ComputationAndExchangesHaveTheirOwnAsLongAsThereAreEnough) {
  for (const int64_t world : {2, 4, 8, 12}) {
    const Plan plan = card_plan({.pp = 2, .dp = world / 2, .schedule = ScheduleKind::k1F1B});
    const std::vector<int32_t> streams = GpuDevice::streams_of(plan, 28);
    std::map<int32_t, int> users;
    for (int64_t r = 0; r < plan.layout.world(); ++r) {
      for (const Lane lane : {Lane::kCompute, Lane::kAllToAll, Lane::kSend0, Lane::kData}) {
        const int32_t s = streams[static_cast<size_t>(r * kLanes) + static_cast<size_t>(lane)];
        EXPECT_LT(s, 28);
        users[s] += lane == Lane::kCompute || lane == Lane::kAllToAll ? 1 : 0;
      }
    }
    for (const auto& [stream, count] : users) EXPECT_LE(count, 1) << stream;
  }
}

// Rows and tokens that find no room: the step is repeated with more on every rank.
TEST(CardOverflow, AStepIsAppliedOnceAndWhole) {
  const Plan plan = card_plan({.dp = 2, .ep = 2});
  const Trained roomy = run_on_card(plan, 1, 0);
  CardTrainer cramped(plan, {}, {.room = 0.4});
  expect_same_bits(run(cramped.trainer, 1), roomy);
  EXPECT_GT(cramped.device->room(), 0.4) << "all found room: a weak test";
}

// --- what a plan may have beside its layout

// As on cores in the same layout, and the same bits in another order.
void expect_as_on_cores(const Plan& plan, double share) {
  const Trained cores = run_on_cores(plan, 2);
  const Trained card = run_on_card(plan, 2, 0);
  for (size_t i = 0; i < cores.losses.size(); ++i) {
    EXPECT_NEAR(card.losses[i], cores.losses[i], share * cores.losses[i]);
  }
  EXPECT_EQ(card.loads.front(), cores.loads.front());
  expect_same_bits(run_on_card(plan, 2, 5), card);
}

TEST(CardVariants, MtpAveragesAndNothingRecomputedInBf16OverTwoNodes) {
  Plan plan = card_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe});
  plan.cluster.devices_per_node = 1;
  plan.model.architecture.mtp_depth = 1;
  plan.training.micro_batches = 4;
  plan.training.mtp_loss = 0.5;
  plan.training.ema = 0.9;
  plan.training.precision = Precision::kBf16;
  plan.training.recompute = {.norms = false, .up_projections = false, .activations = false};
  expect_as_on_cores(plan, 1e-3);
}

TEST(CardVariants, Fp8UnderDualPipeOverTwoNodes) {
  Plan plan = card_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe});
  plan.cluster.devices_per_node = 1;
  plan.training.precision = Precision::kFp8;
  expect_as_on_cores(plan, 1e-3);
}

TEST(CardVariants, ExpertsPlacedElsewhereAndGroupedHeads) {
  Plan plan = card_plan({.dp = 2, .ep = 2});
  const std::string file = testing::TempDir() + "/rehearse_card_placement.json";
  write_file(file,
             print_placement({{.experts = 8, .slots = 4, .expert_of = {3, 0, 5, 6, 1, 2, 4, 7}}}));
  plan.expert_placement = file;
  Architecture& a = plan.model.architecture;
  a.attention = AttentionKind::kGrouped;
  a.heads = 4;
  a.kv_heads = 2;
  expect_as_on_cores(plan, 1e-5);
}

// From a checkpoint of several ranks on a card on one of cores, and from one rank on several on a
// card.
TEST(CardVariants, CheckpointsGoOnInAnotherLayoutOnTheOther) {
  const Plan several = card_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe});
  Plan alone = several;
  alone.layout = {.layers_per_stage = {several.model.architecture.layers}};
  alone.training.micro_batches = several.training.micro_batches * 2;
  const auto hand_over = [](Trainer& from, Trainer& to) {
    const std::string folder = testing::TempDir() + "/rehearse_card_layouts";
    std::filesystem::remove_all(folder);
    from.step(0);
    CheckpointSaver saver(folder, 1);
    saver.save(from.ranks(), {.step = 1, .model = "small"});
    saver.finish();
    std::vector<std::string> passed_over;
    load_state(newest_checkpoint(folder, passed_over).value(), to.ranks());
    const double loss = from.step(1).loss;
    EXPECT_NEAR(to.step(1).loss, loss, 1e-5 * loss);
  };
  CardTrainer card(several), other_card(several);
  Trainer cores(alone, test_text_path()), other_cores(alone, test_text_path());
  hand_over(card.trainer, cores);
  hand_over(other_cores, other_card.trainer);
}

// --- faults

Plan faulty_plan() {
  return card_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::k1F1B});
}

// Every lost wait is found whose work is not ordered by other waits too, as by the group's next
// meeting: who does not notice has checked every byte, so the step is right, and says so.
TEST(CardFaults, ALostWaitIsFound) {
  const Plan plan = faulty_plan();
  CardTrainer whole(plan);
  const double loss = whole.trainer.step(0).loss;
  const int64_t waits = whole.gpu->waits();
  ASSERT_GT(waits, 100);
  int64_t found = 0, tried = 0;
  for (int64_t i = 3; i < waits; i += waits / 12, ++tried) {
    CardTrainer late(plan, {.seed = static_cast<uint64_t>(i), .lost_wait = i});
    try {
      EXPECT_EQ(late.trainer.step(0).loss, loss) << late.gpu->lost();
    } catch (const kernels::imitation::ImitationError&) {
      ++found;
    }
  }
  EXPECT_GE(2 * found, tried) << found << " of " << tried;
}

TEST(CardFaults, ASlotThatIsUsedAgainTooEarlyIsFound) {
  const Plan plan = faulty_plan();
  CardTrainer late(plan, {}, {.early_free = true});
  EXPECT_THROW(late.trainer.step(0), kernels::imitation::ImitationError);
}

// A launch that does nothing: something reads what nobody wrote, or the training is another.
TEST(CardFaults, ALostUpdateIsFound) {
  const Plan plan = faulty_plan();
  CardTrainer whole(plan);
  const Trained right = run(whole.trainer, 1);
  const int64_t launches = whole.gpu->launches();
  for (int64_t i = launches / 9; i < launches; i += launches / 7) {
    CardTrainer faulty(plan, {.lost_launch = i});
    try {
      const Trained wrong = run(faulty.trainer, 1);
      bool differs = wrong.losses != right.losses || wrong.norms != right.norms;
      for (size_t t = 0; t < right.weights.size(); ++t) {
        differs = differs || wrong.weights[t].values != right.weights[t].values;
      }
      // Counts of what is not finite add nothing where all is.
      differs = differs || faulty.gpu->lost().find("grad_norm") != std::string::npos;
      EXPECT_TRUE(differs) << faulty.gpu->lost() << ": launch " << i << " of " << launches;
    } catch (const kernels::imitation::ImitationError&) {
    }
  }
}

TEST(CardFaults, AHangNamesTheOpAndItsPeers) {
  const Plan plan = faulty_plan();
  CardTrainer whole(plan);
  whole.trainer.step(0);
  bool peer_named = false;
  for (int64_t i = 60; i < 140 && !peer_named; i += 9) {
    CardTrainer stuck(plan, {.stuck = i}, {}, Duration::seconds(1.5));
    try {
      stuck.trainer.step(0);
      FAIL() << "it ended";
    } catch (const ScheduleError& e) {
      const std::string error = e.what();
      EXPECT_NE(error.find("at work on the device, does not end"), std::string::npos) << error;
      peer_named = error.find("waits for rank") != std::string::npos;
    }
  }
  EXPECT_TRUE(peer_named);
}

// --- memory

// Of every rank what the plan says: weights and gradients to the byte, and what ops hold at most
// within 5%, by itself. The last stage of a schedule whose weight gradients wait is told too low,
// by up to a tenth: that is known and not in the formula.
TEST(CardMemory, IsWhatThePlanSays) {
  for (const Layout& layout :
       {Layout{},
        Layout{.dp = 2, .ep = 2},
        Layout{.pp = 2, .schedule = ScheduleKind::kZB1P},
        Layout{.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe}}) {
    for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
      Plan plan = card_plan(layout);
      plan.training.precision = precision;
      plan.training.sequence_length = 32;
      plan.routing = Routing::kBalanced;
      CardTrainer card(plan);
      card.trainer.step(0);
      for (int64_t r = 0; r < plan.layout.world(); ++r) {
        const Place place = plan.layout.place_of(r);
        const RankMemory memory = card_memory(plan, place.pp_rank);
        int64_t elements = 0;
        for (int32_t slot = 0; slot < plan.layout.slots(); ++slot) {
          const Stage& stage = card.trainer.ranks().stage(place.pp_rank, place.data_rank, slot);
          elements += stage.where.dense_size + stage.where.expert_size;
        }
        EXPECT_EQ(memory.gradients, Bytes(4 * elements));
        EXPECT_EQ(memory.parameters, Bytes((precision == Precision::kFp32 ? 4 : 2) * elements));
        const auto told = static_cast<double>(memory.activations.count());
        const auto held = static_cast<double>(
            card.trainer.last_results().peak_memory[static_cast<size_t>(r)].count());
        const bool head_waits = layout.schedule == ScheduleKind::kZB1P && place.pp_rank == 1;
        if (head_waits) {
          EXPECT_LE(told, 1.05 * held);
          EXPECT_GE(told, 0.9 * held);
        } else {
          EXPECT_NEAR(told / held, 1, 0.05) << ranks_text(plan.layout) << " rank " << r;
        }
      }
    }
  }
}

TEST(CardMemory, ALayoutThatDoesNotFitIsRefusedBeforeItBegins) {
  const Plan plan = card_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::k1F1B});
  try {
    CardTrainer small(plan, {.memory = 1'700'000});
    FAIL() << "it fits";
  } catch (const InputError& e) {
    const std::string error = e.what();
    for (const char* part : {"small.yaml: 4 ranks on one card need ",
                             "the card has 1.7 MB, 1.7 MB of them free",
                             "the fullest, rank ",
                             "most of it activations",
                             "Would fit, as far as is known: ",
                             "training.moments: bf16"}) {
      EXPECT_NE(error.find(part), std::string::npos) << part << "\n" << error;
    }
  }
}

}  // namespace
}  // namespace rehearse
