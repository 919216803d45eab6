// A model trained by the GPU's kernels under imitation, beside the same on cores; and what is wrong
// with the order of a card's work found.

#include "runtime/devices/cuda/gpu_device.h"

#include <gtest/gtest.h>

#include "kernels/devices/devices.h"
#include "plan/testing.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/devices/cuda/testing.h"

namespace rehearse {
namespace {

// Two layers, one of them with experts; 32 tokens a micro-batch. Every instruction of every thread
// is imitated: small is enough.
Plan gpu_plan() {
  Plan plan = small_plan({});
  Architecture& a = plan.model.architecture;
  a.layers = 2;
  plan.layout.layers_per_stage = {2};
  plan.training.micro_batches = 1;
  plan.training.balance_loss = 0.01;
  plan.training.gradient_clip = 0.5;
  plan.training.ema = 0.9;
  return plan;
}

// Three steps of 64 tokens. share: of a value, that its two may differ by. In FP32, sums of up to
// some hundred terms in another order, each within 2^-24, through a dozen sums one behind the
// other: 1e-5 leaves room for AdamW, which divides by small second moments. In BF16 values are kept
// within 2^-9 of themselves; a loss is a mean over 64 tokens of sums over 8 and more such.
constexpr double kFp32Share = 1e-5;
constexpr double kBf16Share = 1e-3;
void expect_alike(Plan plan, double share) {
  constexpr int64_t steps = 3;
  plan.training.micro_batches = 2;
  const Trained card = run_on_card(plan, steps, 1);
  const Trained cores = run_on_cores(plan, steps);
  for (size_t i = 0; i < cores.losses.size(); ++i) {
    EXPECT_NEAR(card.losses[i], cores.losses[i], share * cores.losses[i]) << i;
  }
  for (size_t i = 0; i < cores.norms.size(); ++i) {
    EXPECT_NEAR(card.norms[i], cores.norms[i], 20 * share * cores.norms[i]) << i;
  }
  EXPECT_EQ(card.loads.front(), cores.loads.front());
}

TEST(GpuDevice, TrainsWithLatentAttentionAndMtp) {
  Plan plan = gpu_plan();
  plan.model.architecture.mtp_depth = 1;
  expect_alike(plan, kFp32Share);
}

// Whatever the order in which a card does what waits leave open.
TEST(GpuDevice, GivesTheSameBitsInAnyOrder) {
  Plan plan = gpu_plan();
  plan.training.micro_batches = 2;
  const Trained first = run_on_card(plan, 1, 0);
  for (const uint64_t seed : {1, 2, 3}) expect_same_bits(run_on_card(plan, 1, seed), first);
}

// Rows that find no room: the step is repeated with more, and all is as if there had been.
TEST(GpuDevice, AStepWithoutRoomIsRepeated) {
  const Plan plan = gpu_plan();
  CardTrainer cramped(plan, {}, {.room = 0.3});
  const Trained after = run(cramped.trainer, 1);
  EXPECT_GT(cramped.device->room(), 0.3) << "all found room: a weak test";
  expect_same_bits(after, run_on_card(plan, 1, 0));
}

TEST(GpuDevice, TrainsWithGroupedHeads) {
  Plan plan = gpu_plan();
  Architecture& a = plan.model.architecture;
  a.attention = AttentionKind::kGrouped;
  a.heads = 4;
  a.kv_heads = 2;
  a.head_norm = HeadNorm::kPerHead;
  a.score = ScoreFunction::kSoftmax;
  a.expert_bias = false;
  expect_alike(plan, kFp32Share);
}

TEST(GpuDevice, TrainsInBf16) {
  Plan plan = gpu_plan();
  plan.training.precision = Precision::kBf16;
  plan.training.moments = Moments::kBf16;
  expect_alike(plan, kBf16Share);
}

// The report's recipe, beside cores' FP8. A code that falls the other way moves its value by a
// sixteenth, and what follows: losses are held to what BF16's are, three steps.
TEST(GpuDevice, TrainsInFp8) {
  Plan plan = gpu_plan();
  plan.training.precision = Precision::kFp8;
  plan.training.recompute = {.norms = false, .up_projections = false};
  expect_alike(plan, kBf16Share);
}

TEST(GpuDevice, TrainsOnForcedChoices) {
  Plan plan = gpu_plan();
  plan.routing = Routing::kBalanced;
  expect_alike(plan, kFp32Share);
}

// Gradients of the first step, every parameter's: in FP32 within a ten thousandth of its tensor's
// largest. In FP8 a code that falls the other way moves what it stands for by up to a sixteenth,
// and a sum of a few such by some hundredths of the largest.
TEST(GpuDevice, GradientsAreThoseOfCores) {
  for (const auto& [precision, share] :
       {std::pair(Precision::kFp32, 1e-4f), std::pair(Precision::kFp8, 5e-2f)}) {
    Plan plan = gpu_plan();
    plan.model.architecture.mtp_depth = 1;
    plan.training.precision = precision;
    const auto gradients = [](Trainer& trainer) {
      trainer.probe();
      return trainer.ranks().state(StateKind::kGradients);
    };
    Trainer on_cores(plan, test_text_path());
    const std::vector<NamedTensor> cores = gradients(on_cores);
    CardTrainer on_card(plan);
    const std::vector<NamedTensor> card = gradients(on_card.trainer);
    ASSERT_EQ(card.size(), cores.size());
    for (size_t i = 0; i < cores.size(); ++i) {
      float most = 0;
      for (const float g : cores[i].values) most = std::max(most, std::abs(g));
      for (size_t j = 0; j < cores[i].values.size(); ++j) {
        ASSERT_NEAR(card[i].values[j], cores[i].values[j], share * most) << cores[i].name;
      }
    }
  }
}

// Every tensor's gradient against the loss on both sides of the weights: along the gradient itself
// the loss grows by its square. The choice of experts is forced, since it has no derivative. Some
// of the tensors, all of them with REHEARSE_LONG_TESTS.
TEST(GpuDevice, GradientsAreDifferencesOfTheLoss) {
  Plan plan = gpu_plan();
  plan.routing = Routing::kBalanced;
  plan.training.balance_loss = 0;
  CardTrainer card(plan);
  card.trainer.probe();
  const std::vector<NamedTensor> gradients = card.trainer.ranks().state(StateKind::kGradients);
  const std::vector<NamedTensor> weights = card.trainer.ranks().state(StateKind::kWeights);
  const auto loss_at = [&](const NamedTensor& along, float by) {
    card.trainer.ranks().set_state(
        StateKind::kWeights, [&](const std::string& name, const std::vector<int64_t>&) {
          const auto found = std::find_if(
              weights.begin(), weights.end(), [&](const auto& t) { return t.name == name; });
          std::vector<float> moved = found->values;
          if (name == along.name) {
            for (size_t i = 0; i < moved.size(); ++i) moved[i] += by * along.values[i];
          }
          return moved;
        });
    return card.trainer.probe().loss;
  };
  const size_t every = std::getenv("REHEARSE_LONG_TESTS") == nullptr ? 9 : 1;
  int64_t tried = 0;
  for (size_t i = 0; i < gradients.size(); i += every) {
    const NamedTensor& g = gradients[i];
    double squares = 0;
    for (const float x : g.values) squares += double{x} * x;
    if (squares == 0) continue;
    // Far enough for FP32's loss to tell, near enough for the third derivative not to: the error of
    // either is below a hundredth.
    const double length = 2e-2 / std::sqrt(squares);
    const double slope =
        (loss_at(g, static_cast<float>(length)) - loss_at(g, static_cast<float>(-length))) /
        (2 * length);
    EXPECT_NEAR(slope, squares, 0.02 * squares + 1e-5 * std::sqrt(squares)) << g.name;
    ++tried;
  }
  EXPECT_GT(tried, 3);
}

// A checkpoint of one goes on on the other: the same bits in it, and the next step's loss.
TEST(GpuDevice, ItsCheckpointsGoOnOnCoresAndBack) {
  const Plan plan = gpu_plan();
  CardTrainer card(plan), other_card(plan);
  Trainer cores(plan, test_text_path()), other_cores(plan, test_text_path());
  const auto hand_over = [](Trainer& from, Trainer& to, const std::string& folder) {
    std::filesystem::remove_all(folder);
    from.step(0);
    CheckpointSaver saver(folder, 1);
    saver.save(from.ranks(), {.step = 1, .averages = true, .model = "small"});
    saver.finish();
    std::vector<std::string> passed_over;
    load_state(newest_checkpoint(folder, passed_over).value(), to.ranks());
    for (const StateKind kind : {StateKind::kWeights,
                                 StateKind::kFirstMoments,
                                 StateKind::kSecondMoments,
                                 StateKind::kAverages}) {
      const auto there = from.ranks().state(kind), here = to.ranks().state(kind);
      ASSERT_EQ(here.size(), there.size());
      for (size_t i = 0; i < here.size(); ++i) EXPECT_EQ(here[i].values, there[i].values);
    }
    const double loss = from.step(1).loss;
    EXPECT_NEAR(to.step(1).loss, loss, kFp32Share * loss);
  };
  const std::string folder = testing::TempDir() + "/rehearse_card_checkpoint";
  hand_over(card.trainer, cores, folder);
  hand_over(other_cores, other_card.trainer, folder);
}

// On the card itself, where there is one: what tools/gpu_check.sh tries at length.
TEST(GpuDevice, TrainsOnThisMachinesCard) {
  if (const std::string why = why_no_gpu(); !why.empty()) GTEST_SKIP() << why;
  const Plan plan = gpu_plan();
  Trainer card(plan, test_text_path(), {.device = [](const Plan& p, Communicator& c) {
                 return make_device(p, c, TrainOn::kCard);
               }});
  const double loss = run_on_cores(plan, 1).losses.front();
  EXPECT_NEAR(card.step(0).loss, loss, 1e-6 * loss);
}

// --- order

TEST(GpuDevice, FindsALostWait) {
  const Plan plan = gpu_plan();
  CardTrainer whole(plan);
  whole.trainer.step(0);
  const int64_t waits = whole.gpu->waits();
  ASSERT_GT(waits, 8);
  int64_t spare = 0;
  for (int64_t i = 0; i < waits; ++i) {
    // Both where the work ran too early and where it happened to run in time.
    CardTrainer late(plan, {.seed = static_cast<uint64_t>(i), .lost_wait = i});
    try {
      late.trainer.step(0);
      // Loads were counted long before, by what its lane is behind anyway.
      EXPECT_EQ(late.gpu->lost(), "rank 0, bias_update s0 group replicas") << "nobody noticed";
      ++spare;
    } catch (const kernels::imitation::ImitationError& e) {
      const std::string error = e.what();
      EXPECT_TRUE(error.find("waits for nothing behind that") != std::string::npos ||
                  error.find("which nothing wrote") != std::string::npos)
          << error;
    }
  }
  EXPECT_LE(spare, 1);
}

TEST(GpuDevice, FindsAnEventThatIsNotRecorded) {
  const Plan plan = gpu_plan();
  int found = 0;
  for (const int64_t n : {1, 3, 5, 9, 11}) {
    CardTrainer late(plan, {.lost_record = n});
    try {
      late.trainer.step(0);
    } catch (const ScheduleError& e) {
      ++found;
      EXPECT_NE(std::string(e.what()).find("not recorded"), std::string::npos) << e.what();
    } catch (const std::out_of_range&) {
      // A moment that nobody waits for: its time is missing.
    }
  }
  EXPECT_GE(found, 2);
}

TEST(GpuDevice, FindsABufferThatIsFreedEarly) {
  Plan plan = gpu_plan();
  plan.training.micro_batches = 2;
  CardTrainer late(plan, {}, {.early_free = true});
  EXPECT_THROW(late.trainer.step(0), kernels::imitation::ImitationError);
}

// --- a card that has no more, or does not end

TEST(GpuDevice, SaysWhatHoldsACardThatIsFull) {
  const Plan plan = gpu_plan();
  CardTrainer roomy(plan);
  roomy.trainer.step(0);
  const Gpu::MemorySize size = roomy.gpu->memory_size();
  try {
    CardTrainer full(plan, {.memory = size.total - size.free - 1});
    full.trainer.step(0);
    FAIL() << "it had room";
  } catch (const InputError& e) {
    const std::string error = e.what();
    for (const char* part : {"the card is out of memory: rank 0 asks for",
                             "buffers of ops",
                             "The plan's own count for the rank: weights",
                             "training.moments: bf16"}) {
      EXPECT_NE(error.find(part), std::string::npos) << part << "\n" << error;
    }
  }
}

TEST(GpuDevice, KeepsItsMemoryFromStepToStep) {
  const Plan plan = gpu_plan();
  CardTrainer card(plan);
  card.trainer.step(0);
  card.trainer.step(1);
  const size_t after_two = card.gpu->memory_size().free;
  for (int64_t i = 2; i < 5; ++i) card.trainer.step(i);
  EXPECT_EQ(card.gpu->memory_size().free, after_two);
}

TEST(GpuDevice, AHangIsReportedWithTheOpAtWork) {
  const Plan plan = gpu_plan();
  CardTrainer stuck(plan, {.stuck = 40}, {}, Duration::seconds(2));
  try {
    stuck.trainer.step(0);
    FAIL() << "it ended";
  } catch (const ScheduleError& e) {
    const std::string error = e.what();
    EXPECT_NE(error.find("no op has ended for"), std::string::npos) << error;
    EXPECT_NE(error.find("at work on the device, does not end"), std::string::npos) << error;
    EXPECT_NE(error.find("rank 0 lane "), std::string::npos) << error;
  }
}

// The measured timeline: every op has a span, and none begins before what it depends on has ended.
TEST(GpuDevice, TimesEveryOp) {
  const Plan plan = gpu_plan();
  CardTrainer card(plan, {.seed = 3});
  card.trainer.step(0);
  const Timeline& t = card.trainer.last_timeline();
  const Program& program = card.trainer.program();
  for (const Op& op : program.ops()) {
    const Span& span = t.spans[static_cast<size_t>(op.id)];
    EXPECT_LT(span.begin, span.end) << to_string(op);
    for (const int32_t d : program.dependencies(op.id)) {
      EXPECT_LE(t.spans[static_cast<size_t>(d)].end, span.begin) << to_string(op);
    }
  }
}

}  // namespace
}  // namespace rehearse
