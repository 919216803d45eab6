// The same numbers whatever the layout, and the same bits for the same layout.

#include <gtest/gtest.h>

#include "plan/program/memory.h"
#include "plan/testing.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

constexpr int64_t kSteps = 10;

struct TrainingRun {
  std::vector<double> losses;
  std::vector<double> norms;
  std::vector<double> mtp_losses;                 // of the last module
  std::vector<std::vector<int64_t>> first_loads;  // per MoE layer, of the first step
  double validation = 0;                          // after the last step
};

TrainingRun run_layout(const Plan& plan) {
  Trainer trainer(plan, test_text_path());
  TrainingRun run;
  for (int64_t i = 0; i < kSteps; ++i) {
    const StepLog log = trainer.step(i);
    run.losses.push_back(log.loss);
    run.norms.push_back(log.gradient_norm);
    if (!log.mtp_losses.empty()) run.mtp_losses.push_back(log.mtp_losses.back());
    if (i > 0) continue;
    const Architecture& a = plan.model.architecture;
    for (int64_t layer = a.dense_layers(); layer < a.layers; ++layer) {
      const auto load = trainer.last_results().load_of(layer);
      run.first_loads.emplace_back(load.begin(), load.end());
    }
  }
  run.validation = trainer.validate(1);
  return run;
}

Plan plan_of(Layout layout) {
  Plan plan = small_plan(std::move(layout));
  // The whole batch stays the same: 16 micro-batches, shared out over data-parallel ranks.
  plan.training.micro_batches = 16 / plan.layout.dp;
  plan.cluster.devices_per_node = 2;  // EP4 spans nodes: tokens are forwarded
  return plan;
}

const TrainingRun& single_rank() {
  static const TrainingRun run = run_layout(plan_of({}));
  return run;
}

// With everything on that the recipe has: two MTP modules, a balance loss and clipping that matter.
Plan whole_recipe(Layout layout) {
  Plan plan = plan_of(std::move(layout));
  plan.model.architecture.mtp_depth = 2;
  plan.training.mtp_loss = 0.5;
  plan.training.balance_loss = 0.01;
  plan.training.gradient_clip = 0.5;
  return plan;
}

class Layouts : public testing::TestWithParam<Layout> {};

TEST_P(Layouts, AgreeWithTheSingleRankOnTheWholeRecipe) {
  static const TrainingRun single = run_layout(whole_recipe({}));
  const TrainingRun run = run_layout(whole_recipe(GetParam()));
  EXPECT_EQ(run.first_loads, single.first_loads) << "routing differs already";
  for (size_t i = 0; i < kSteps; ++i) {
    EXPECT_NEAR(run.losses[i], single.losses[i], 1e-4 * single.losses[i]) << "step " << i;
    EXPECT_NEAR(run.norms[i], single.norms[i], 2e-3 * single.norms[i]);
  }
  EXPECT_LT(run.mtp_losses.back(), run.mtp_losses.front() - 0.3);
  EXPECT_NEAR(run.mtp_losses.back(), single.mtp_losses.back(), 1e-4 * single.mtp_losses.back());
  EXPECT_NEAR(run.validation, single.validation, 1e-4 * run.validation);
}

TEST_P(Layouts, AgreeWithTheSingleRank) {
  const TrainingRun run = run_layout(plan_of(GetParam()));
  EXPECT_EQ(run.first_loads, single_rank().first_loads) << "routing differs already";
  for (size_t i = 0; i < kSteps; ++i) {
    EXPECT_NEAR(run.losses[i], single_rank().losses[i], 1e-4 * single_rank().losses[i])
        << "step " << i;
    EXPECT_NEAR(run.norms[i], single_rank().norms[i], 2e-3 * single_rank().norms[i]);
  }
  EXPECT_LT(run.losses.back(), run.losses.front() - 0.3) << "nothing was learnt: a weak test";
  EXPECT_NEAR(run.validation, single_rank().validation, 1e-4 * run.validation);
}

// What the plan says that every rank holds, and no more with more steps.
void expect_memory(Plan plan) {
  plan.routing = Routing::kBalanced;
  Trainer trainer(plan, test_text_path());
  // Lanes run side by side: what they hold at once is not quite the same each time.
  for (int64_t step = 0; step < 5; ++step) trainer.step(step);
  const std::vector<Bytes>& most = trainer.last_results().peak_memory;
  for (int64_t rank = 0; rank < plan.layout.world(); ++rank) {
    const Place place = plan.layout.place_of(rank);
    const RankMemory memory = rank_memory(plan, place.pp_rank);
    const auto told = static_cast<double>(memory.activations.count());
    const auto held = static_cast<double>(most[static_cast<size_t>(rank)].count());
    bool layers = false;
    for (int64_t slot = 0; slot < plan.layout.slots(); ++slot) {
      const int64_t stage = plan.layout.stage_of(place.pp_rank, slot);
      layers |= plan.layout.layers_per_stage[static_cast<size_t>(stage)] > 0;
    }
    if (layers) {
      EXPECT_NEAR(told / held, 1, 0.1) << "rank " << rank;
    } else {
      // Ends of the model alone run ahead of the others: outputs of micro-batches that have not
      // left yet are not in the plan's formula, at most one of each.
      const auto message =
          static_cast<double>(plan.micro_batch_tokens() * plan.model.architecture.hidden *
                              bytes_of(plan.training).activation);
      EXPECT_LE(told, 1.1 * held) << "rank " << rank;
      const auto each = static_cast<double>(plan.training.micro_batches);
      EXPECT_GE(told, 0.9 * held - each * message) << "rank " << rank;
    }
    // The rest to the byte.
    int64_t elements = 0;
    int64_t weights = 0, optimizer = 0;
    const auto bytes = [](const FlatValues& v) { return v.size() * element_bytes(v.type()); };
    for (int32_t slot = 0; slot < plan.layout.slots(); ++slot) {
      const Stage& s = trainer.ranks().stage(place.pp_rank, place.data_rank, slot);
      elements += s.where.dense_size + s.where.expert_size;
      weights += bytes(s.weights.arena(Arena::kDense)) + bytes(s.weights.arena(Arena::kExpert)) +
                 s.weights.operand_bytes().count();
      for (const size_t arena : {0, 1}) {
        for (const auto* of : {s.m, s.v, s.master}) optimizer += bytes(of[arena]);
      }
    }
    EXPECT_EQ(memory.parameters.count(), weights);
    EXPECT_EQ(memory.gradients.count(), 4 * elements);
    EXPECT_NEAR(static_cast<double>(memory.optimizer.count()),
                static_cast<double>(optimizer),
                static_cast<double>(16 * plan.layout.world()));
  }
}

TEST_P(Layouts, HoldWhatThePlanSays) {
  Plan plan = whole_recipe(GetParam());
  plan.training.sequence_length = 64;
  expect_memory(plan);
}

Plan in_bf16(Plan plan) {
  plan.training.precision = Precision::kBf16;
  plan.training.moments = Moments::kBf16;
  return plan;
}

// tiny-v3's widths, and twice the layers.
void widen(Plan& plan) {
  Architecture& a = plan.model.architecture;
  a.layers *= 2;
  for (int64_t& n : plan.layout.layers_per_stage) n *= 2;
  a.hidden = 128;
  a.dense_intermediate = 384;
  a.expert_intermediate = 96;
  a.heads = 4;
  a.q_lora = a.kv_lora = 64;
  a.qk_nope = a.v_head = 32;
  a.qk_rope = 16;
}

TEST_P(Layouts, HoldWhatThePlanSaysInBf16) {
  Plan plan = in_bf16(whole_recipe(GetParam()));
  // Of narrow layers, one to a stage, what two lanes widen at once shows.
  widen(plan);
  expect_memory(plan);
}

// Rounding to eight bits leaves the training what it was: a loss that a mean over 256 tokens makes
// stays within a hundredth of FP32's, and falls as far.
TEST_P(Layouts, LearnInBf16) {
  static const TrainingRun exact = run_layout(whole_recipe({}));
  const TrainingRun run = run_layout(in_bf16(whole_recipe(GetParam())));
  for (size_t i = 0; i < kSteps; ++i) {
    EXPECT_NEAR(run.losses[i], exact.losses[i], 0.01 * exact.losses[i]) << "step " << i;
    EXPECT_NEAR(run.norms[i], exact.norms[i], 0.05 * exact.norms[i]);
  }
  EXPECT_NE(run.losses, exact.losses) << "nothing was rounded";
  EXPECT_NEAR(run.validation, exact.validation, 0.01 * exact.validation);
  EXPECT_NEAR(run.mtp_losses.back(), exact.mtp_losses.back(), 0.01 * exact.mtp_losses.back());
}

Plan in_fp8(Plan plan) {
  plan.training.precision = Precision::kFp8;
  return plan;
}

TEST_P(Layouts, HoldWhatThePlanSaysInFp8) {
  Plan plan = in_fp8(whole_recipe(GetParam()));
  widen(plan);
  expect_memory(plan);
}

// Of what three bits of mantissa leave, a mean over 256 tokens: within two hundredths of FP32's,
// and the same bits again.
TEST_P(Layouts, LearnInFp8AndRepeat) {
  static const TrainingRun exact = run_layout(whole_recipe({}));
  const TrainingRun run = run_layout(in_fp8(whole_recipe(GetParam())));
  for (size_t i = 0; i < kSteps; ++i) {
    EXPECT_NEAR(run.losses[i], exact.losses[i], 0.02 * exact.losses[i]) << "step " << i;
    EXPECT_NEAR(run.norms[i], exact.norms[i], 0.1 * exact.norms[i]);
  }
  EXPECT_NEAR(run.validation, exact.validation, 0.02 * exact.validation);
  EXPECT_NEAR(run.mtp_losses.back(), exact.mtp_losses.back(), 0.02 * exact.mtp_losses.back());
  const TrainingRun again = run_layout(in_fp8(whole_recipe(GetParam())));
  EXPECT_EQ(again.losses, run.losses);
  EXPECT_EQ(again.norms, run.norms);
}

// Behind an odd number of BF16 values weights and choices are not aligned; behind one of codes
// their scales would not be.
TEST(Messages, OddWidthsTravel) {
  for (const Precision precision : {Precision::kBf16, Precision::kFp8}) {
    const auto losses = [&](const Layout& layout) {
      Plan plan = plan_of(layout);
      plan.training.precision = precision;
      plan.model.architecture.hidden = 33;
      Trainer trainer(plan, test_text_path());
      std::vector<double> all;
      for (int64_t i = 0; i < 3; ++i) all.push_back(trainer.step(i).loss);
      return all;
    };
    const std::vector<double> alone = losses({});
    const std::vector<double> shared = losses({.dp = 4, .ep = 4});  // over two nodes
    for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(shared[i], alone[i], 0.01 * alone[i]);
  }
}

// A batch that grows is the same training in every layout whose micro-batches go into it.
TEST(BatchRamp, GrowsInEveryLayout) {
  const auto run = [](const Layout& layout) {
    Plan plan = whole_recipe(layout);
    plan.training.ramp_from = 8 * plan.training.micro_batch_size;
    plan.training.ramp_steps = 4;
    plan.training.steps = 7;
    Trainer trainer(plan, test_text_path());
    std::vector<StepLog> logs;
    const TrainResult r =
        trainer.train({.steps = 7, .on_step = [&](const StepLog& log) { logs.push_back(log); }});
    EXPECT_EQ(r.timeline.spans.size(), static_cast<size_t>(trainer.program().global_size()));
    return logs;
  };
  const std::vector<StepLog> one = run({});
  EXPECT_EQ(one.front().sequences, 16);
  EXPECT_EQ(one[2].sequences, 24);
  EXPECT_EQ(one.back().sequences, 32);
  for (const Layout& layout : {Layout{.dp = 2, .ep = 2}, Layout{.pp = 2, .dp = 2}}) {
    const std::vector<StepLog> several = run(layout);
    for (size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(several[i].sequences, one[i].sequences);
      EXPECT_NEAR(several[i].loss, one[i].loss, 1e-4 * one[i].loss) << i;
      EXPECT_NEAR(several[i].gradient_norm, one[i].gradient_norm, 2e-3 * one[i].gradient_norm);
    }
  }
}

// What is computed again has the bits that it had, and takes the place of what was kept. Plans of
// these tests compute again what they may. Under FP8 SwiGLU's output follows from inputs that were
// cached in FP8, where it is computed again: there it is so in all runs.
TEST(Recomputation, ChangesNothingButMemory) {
  for (const auto& [kind, precision] : {std::pair(AttentionKind::kLatent, Precision::kFp32),
                                        std::pair(AttentionKind::kGrouped, Precision::kFp32),
                                        std::pair(AttentionKind::kLatent, Precision::kBf16),
                                        std::pair(AttentionKind::kGrouped, Precision::kBf16),
                                        std::pair(AttentionKind::kLatent, Precision::kFp8),
                                        std::pair(AttentionKind::kGrouped, Precision::kFp8)}) {
    Plan plan = whole_recipe({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kZB1P});
    Architecture& a = plan.model.architecture;
    a.attention = kind;
    a.kv_heads = kind == AttentionKind::kGrouped ? a.heads / 2 : 0;
    if (kind == AttentionKind::kGrouped) a.head_norm = HeadNorm::kPerHead;
    plan.routing = Routing::kBalanced;
    plan.training.precision = precision;
    TrainingRun kept;
    std::vector<Bytes> most;
    const auto run = [&](const Recompute& again) {
      plan.training.recompute = again;
      Trainer trainer(plan, test_text_path());
      TrainingRun r;
      for (int64_t i = 0; i < 3; ++i) {
        const StepLog log = trainer.step(i);
        r.losses.push_back(log.loss);
        r.norms.push_back(log.gradient_norm);
      }
      most = trainer.last_results().peak_memory;
      return r;
    };
    const bool cached = precision == Precision::kFp8;
    const Recompute none{.norms = false, .up_projections = false, .activations = cached};
    kept = run(none);
    const std::vector<Bytes> all = most;
    for (const Recompute& again : {Recompute{.up_projections = false, .activations = cached},
                                   Recompute{.norms = false, .activations = cached},
                                   Recompute{.norms = false, .up_projections = false},
                                   Recompute{}}) {
      const TrainingRun r = run(again);
      EXPECT_EQ(r.losses, kept.losses);
      EXPECT_EQ(r.norms, kept.norms);
    }
    EXPECT_LT(most.front(), all.front());
    const auto told = static_cast<double>(rank_memory(plan, 0).activations.count());
    EXPECT_NEAR(told / static_cast<double>(most.front().count()), 1, 0.1);
    plan.training.recompute = none;
    const auto told_all = static_cast<double>(rank_memory(plan, 0).activations.count());
    EXPECT_NEAR(told_all / static_cast<double>(all.front().count()), 1, 0.1);
  }
}

TEST_P(Layouts, RepeatBitForBit) {
  const TrainingRun first = run_layout(plan_of(GetParam()));
  const TrainingRun second = run_layout(plan_of(GetParam()));
  EXPECT_EQ(first.losses, second.losses);
  EXPECT_EQ(first.norms, second.norms);
}

std::vector<Layout> layouts_to_run() {
  std::vector<Layout> list;
  for (const int64_t pp : {1, 2, 4}) {
    for (const auto kind : {ScheduleKind::k1F1B, ScheduleKind::kZB1P, ScheduleKind::kDualPipe}) {
      if (facts_of(kind).check_ranks(pp).empty()) list.push_back({.pp = pp, .schedule = kind});
    }
  }
  list.push_back({.pp = 2, .schedule = ScheduleKind::kDualPipe, .zero_stage = 0});
  // Several stages of a rank.
  list.push_back({.pp = 2, .schedule = ScheduleKind::kDualPipeV});
  list.push_back({.pp = 2, .dp = 4, .ep = 2, .schedule = ScheduleKind::kDualPipeV});
  list.push_back({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kInterleaved, .chunks = 2});
  list.push_back({.pp = 2, .dp = 4, .schedule = ScheduleKind::kInterleaved, .chunks = 2});
  // Stages without layers: the head's, and the embedding's.
  list.push_back({.pp = 2, .layers_per_stage = {4, 0}});
  list.push_back({.pp = 4, .schedule = ScheduleKind::kZB1P, .layers_per_stage = {0, 2, 2, 0}});
  list.push_back(
      {.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::kDualPipe, .layers_per_stage = {4, 0}});
  list.push_back(
      {.pp = 2, .dp = 2, .schedule = ScheduleKind::kDualPipeV, .layers_per_stage = {0, 2, 2, 0}});
  list.push_back({.pp = 2,
                  .schedule = ScheduleKind::kInterleaved,
                  .chunks = 3,
                  .layers_per_stage = {0, 1, 1, 1, 1, 0}});
  list.push_back({.dp = 2});
  list.push_back({.dp = 2, .ep = 2});
  list.push_back({.dp = 4, .ep = 2});
  list.push_back({.dp = 4, .ep = 4});
  list.push_back({.dp = 4, .ep = 2, .zero_stage = 0});
  for (const auto kind : {ScheduleKind::k1F1B, ScheduleKind::kZB1P, ScheduleKind::kDualPipe}) {
    list.push_back({.pp = 2, .dp = 2, .ep = 2, .schedule = kind});
    list.push_back({.pp = 2, .dp = 4, .ep = 2, .schedule = kind});
    list.push_back(
        {.pp = 2, .dp = 4, .ep = 2, .rank_order = RankOrder::kPipelineFirst, .schedule = kind});
    list.push_back({.pp = 4, .dp = 2, .ep = 2, .schedule = kind});
  }
  return list;
}

INSTANTIATE_TEST_SUITE_P(Runtime, Layouts, testing::ValuesIn(layouts_to_run()), layout_name);

TEST(Train, BalancesExpertsAndBiasesMoveByGamma) {
  Plan plan = plan_of({});
  plan.training.bias_update_speed = 0.5;
  Trainer trainer(plan, test_text_path());
  trainer.step(0);
  const Stage& s = trainer.ranks().stage(0, 0, 0);
  const auto load = trainer.last_results().load_of(1);
  double mean = 0;
  for (const int64_t n : load) mean += static_cast<double>(n) / static_cast<double>(load.size());
  for (size_t e = 0; e < load.size(); ++e) {
    const double above = static_cast<double>(load[e]) - mean;
    const float expected = above > 0 ? -0.5f : above < 0 ? 0.5f : 0.0f;
    EXPECT_EQ(s.expert_bias[1].get(0, std::ssize(load))[e], expected)
        << "expert " << e << " with " << load[e];
  }
}

// A layer that makes what is not finite is named, forward and backward, and the weights stay.
TEST(Train, NamesTheLayerThatIsNotFinite) {
  for (const int64_t layer : {1, 3}) {
    Plan plan = plan_of({.pp = 2});
    plan.training.bias_update_speed = 0.5;
    Trainer trainer(plan, test_text_path());
    Stage& s = trainer.ranks().stage(layer / 2, 0, 0);
    FlatValues& weights = s.weights.arena(Arena::kDense);
    const std::vector<float> before = weights.get(0, weights.size());
    s.weights.array(s.where.layers[static_cast<size_t>(layer % 2)].o).fp32()[5] =
        std::numeric_limits<float>::infinity();
    std::string error;
    try {
      trainer.step(0);
    } catch (const InputError& e) {
      error = e.what();
    }
    EXPECT_NE(error.find("in step 1: first the output of layer " + std::to_string(layer)),
              std::string::npos)
        << error;
    int64_t changed = 0;
    const std::vector<float> after = weights.get(0, weights.size());
    for (size_t i = 0; i < before.size(); ++i) changed += before[i] != after[i];
    EXPECT_EQ(changed, 1) << "the step was taken";
    for (const StateKind kind : {StateKind::kFirstMoments, StateKind::kSecondMoments}) {
      for (const NamedTensor& t : trainer.ranks().state(kind)) {
        for (const float moment : t.values) EXPECT_EQ(moment, 0) << t.name;
      }
    }
    for (const FlatValues& bias : s.expert_bias) {
      for (const float b : bias.get(0, bias.size())) EXPECT_EQ(b, 0);
    }
  }
}

// What train() leaves behind, beside the logs of its steps.
TEST(Train, ResultIsThatOfTheStepsButHoldsNone) {
  Plan plan = plan_of({.pp = 2});
  plan.training.steps = 21;
  Trainer trainer(plan, test_text_path());
  std::vector<StepLog> logs;
  const TrainResult r =
      trainer.train({.steps = 21, .validation_steps = 1, .on_step = [&](const StepLog& s) {
                       logs.push_back(s);
                     }});
  ASSERT_EQ(logs.size(), 21u);
  EXPECT_EQ(r.steps, 21);
  EXPECT_EQ(r.first_loss, logs.front().loss);
  EXPECT_EQ(r.last_loss, logs.back().loss);
  EXPECT_EQ(r.validation_loss, logs.back().validation_loss);
  EXPECT_TRUE(r.validation_loss.has_value());
  EXPECT_EQ(r.memory, logs.back().memory);
  // The last tenth: two steps.
  EXPECT_DOUBLE_EQ(r.max_expert_load, (logs[19].max_expert_load + logs[20].max_expert_load) / 2);
  std::vector<Duration> times;
  for (size_t i = kWarmSteps; i < logs.size(); ++i) times.push_back(logs[i].time);
  std::sort(times.begin(), times.end());
  EXPECT_EQ(r.median_step, times[9]) << "of 19";
  EXPECT_EQ(r.timeline.step(), r.timeline_step);
  EXPECT_EQ(static_cast<int64_t>(r.timeline.spans.size()), trainer.program().global_size());
}

TEST(Train, ValidationDoesNotChangeTheTraining) {
  const Plan plan = plan_of({.pp = 2, .schedule = ScheduleKind::kDualPipe});
  Trainer plain(plan, test_text_path()), checked(plan, test_text_path());
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_GT(checked.validate(2), 0);
    EXPECT_EQ(plain.step(i).loss, checked.step(i).loss);
  }
  EXPECT_EQ(plain.validate(1), checked.validate(1));
}

// The report's table 2, measured: 1F1B holds PP - r micro-batches on rank r, ZB1P PP and DualPipe
// PP + 1 on every rank.
TEST(Train, HoldsAsManyMicroBatchesAsTheTableSays) {
  for (const auto kind : {ScheduleKind::k1F1B, ScheduleKind::kZB1P, ScheduleKind::kDualPipe}) {
    Plan plan = small_plan({.pp = 4, .schedule = kind});
    plan.training.micro_batches = 12;
    Trainer trainer(plan, test_text_path());
    trainer.step(0);
    for (int64_t rank = 0; rank < 4; ++rank) {
      const int64_t expected = kind == ScheduleKind::k1F1B   ? 4 - rank
                               : kind == ScheduleKind::kZB1P ? 4
                                                             : 5;
      EXPECT_EQ(trainer.ranks().peak_micro_batches(rank), expected)
          << name_of(kind) << " rank " << rank;
    }
  }
}

// Gradients of the whole model against central differences of its loss. Every expert is active, so
// that no choice jumps; the gate's gradient with choices is checked in kernels/gate.
TEST(Train, FiniteDifferencesConfirmEveryParameter) {
  Plan plan = plan_of({});
  plan.model.init_std = 0.2;
  plan.model.architecture.experts = 4;
  plan.model.architecture.active_experts = 4;
  plan.model.architecture.groups = 1;
  plan.model.architecture.kept_groups = 1;
  plan.training.learning_rate = 0;
  plan.training.final_learning_rate = 0;
  plan.training.weight_decay = 0;
  plan.training.gradient_clip = 0;
  plan.training.balance_loss = 0;
  plan.training.bias_update_speed = 0;
  Trainer trainer(plan, test_text_path());
  trainer.step(0);
  Stage& s = trainer.ranks().stage(0, 0, 0);
  // The first step's moments are (1 - beta1) times the gradient.
  const std::vector<float> m[2] = {s.m[0].get(0, s.m[0].size()), s.m[1].get(0, s.m[1].size())};
  for (size_t i = 0; i < s.where.list.size(); ++i) {
    const Parameter& p = s.where.list[i];
    float* w = s.weights.array(static_cast<ParameterId>(i)).fp32();
    const std::vector<float> original(w, w + p.size());
    std::vector<double> gradient;
    double norm = 0;
    for (int64_t j = 0; j < p.size(); ++j) {
      const auto g =
          static_cast<double>(m[static_cast<size_t>(p.arena)][static_cast<size_t>(p.offset + j)]) /
          (1 - plan.training.beta1);
      gradient.push_back(g);
      norm += g * g;
    }
    norm = std::sqrt(norm);
    ASSERT_GT(norm, 0) << p.name;
    // Along the gradient the loss must change at the rate of its norm. A loss of about 6 in FP32,
    // averaged over 256 tokens, is good to about 1e-7, so a change of 2e-3 shows to 1e-4; the
    // third derivative adds the square of the step.
    const double step = std::min(1e-3 / norm, 0.05);
    const auto loss_at = [&](double distance) {
      for (size_t j = 0; j < original.size(); ++j) {
        w[j] = static_cast<float>(static_cast<double>(original[j]) + distance * gradient[j] / norm);
      }
      return trainer.step(0).loss;
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    std::copy(original.begin(), original.end(), w);
    EXPECT_NEAR(slope, norm, 0.01 * norm + 2e-7 / step) << p.name;
  }
}

}  // namespace
}  // namespace rehearse
