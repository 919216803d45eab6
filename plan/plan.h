#pragma once
// The Plan: the one file a person edits. It names a model and a cluster and says how the one is
// trained on the other; `simulate` and `train` both read it, so nothing is told twice.

#include <optional>
#include <string>

#include "base/units.h"
#include "base/yaml.h"
#include "cost/gpu_tasks.h"
#include "cost/precision.h"
#include "plan/cluster.h"
#include "plan/layout.h"
#include "plan/model.h"

namespace rehearse {

// What a balance loss evens out.
enum class BalanceOver : uint8_t {
  kSequence,    // each sequence's choices: DeepSeek-V3's complement to its biases
  kMicroBatch,  // those of a micro-batch together: the classic auxiliary loss (Switch, GShard)
};
inline constexpr NameTable kBalanceOvers{std::to_array<Named<BalanceOver>>(
    {{BalanceOver::kSequence, "sequence"}, {BalanceOver::kMicroBatch, "micro_batch"}})};
static_assert(kBalanceOvers.complete());

// Of AdamW's two moments; auto: as the precision has them.
enum class Moments : uint8_t { kAuto, kFp32, kBf16 };
inline constexpr NameTable kMoments{std::to_array<Named<Moments>>(
    {{Moments::kAuto, "auto"}, {Moments::kFp32, "fp32"}, {Moments::kBf16, "bf16"}})};
static_assert(kMoments.complete());

// What differs from the report's FP8 framework (sections 3.3.1 to 3.3.3) where a plan says so, to
// study it on cores.
enum class GradientTiles : uint8_t { kRows, kBlocks };  // of activations' gradients
inline constexpr NameTable kGradientTiles{std::to_array<Named<GradientTiles>>(
    {{GradientTiles::kRows, "1x128"}, {GradientTiles::kBlocks, "128x128"}})};
static_assert(kGradientTiles.complete());
enum class Fp8Scales : uint8_t { kAmax, kPowerOfTwo };
inline constexpr NameTable kFp8Scales{std::to_array<Named<Fp8Scales>>(
    {{Fp8Scales::kAmax, "amax"}, {Fp8Scales::kPowerOfTwo, "power_of_two"}})};
static_assert(kFp8Scales.complete());
enum class SwigluCache : uint8_t { kFp8, kBf16 };
inline constexpr NameTable kSwigluCaches{
    std::to_array<Named<SwigluCache>>({{SwigluCache::kFp8, "fp8"}, {SwigluCache::kBf16, "bf16"}})};
static_assert(kSwigluCaches.complete());
enum class AttentionCache : uint8_t { kE5m6, kFp8, kBf16 };
inline constexpr NameTable kAttentionCaches{
    std::to_array<Named<AttentionCache>>({{AttentionCache::kE5m6, "e5m6"},
                                          {AttentionCache::kFp8, "fp8"},
                                          {AttentionCache::kBf16, "bf16"}})};
static_assert(kAttentionCaches.complete());
enum class Fp8Message : uint8_t { kFp8, kBf16 };
inline constexpr NameTable kFp8Messages{
    std::to_array<Named<Fp8Message>>({{Fp8Message::kFp8, "fp8"}, {Fp8Message::kBf16, "bf16"}})};
static_assert(kFp8Messages.complete());
enum class Fp8Products : uint8_t { kExact, kTensorCore };
inline constexpr NameTable kFp8Products{std::to_array<Named<Fp8Products>>(
    {{Fp8Products::kExact, "exact"}, {Fp8Products::kTensorCore, "tensor_core"}})};
static_assert(kFp8Products.complete());
struct Fp8Choices {
  GradientTiles gradient_tiles = GradientTiles::kRows;
  Fp8Scales scales = Fp8Scales::kAmax;  // of what is not sent to experts
  SwigluCache swiglu_cache = SwigluCache::kFp8;
  AttentionCache attention_cache = AttentionCache::kE5m6;
  Fp8Message dispatch = Fp8Message::kFp8;  // tokens to experts, and the gradient of combine
  Fp8Products products = Fp8Products::kExact;
  int64_t promotion = 128;  // of tensor cores' sums to FP32: products between; 0: at their end
  int64_t accumulator_bits = 13;  // of mantissa, of these sums
  bool operator==(const Fp8Choices&) const = default;
};

struct Training {
  int64_t micro_batches = 0;  // per data-parallel rank and step
  int64_t ramp_from = 0;      // sequences of the first step of `train` (plan/batch_ramp.h); 0: all
  int64_t ramp_steps = 0;     // until the batch has grown; or
  std::optional<double> ramp_tokens;
  int64_t micro_batch_size = 0;  // sequences per micro-batch
  int64_t sequence_length = 0;   // tokens per sequence
  int64_t steps = 100;           // optimizer steps of `train`
  std::optional<double> tokens;  // the whole training's budget, for GPU-hours
  int64_t seed = 1;              // of the initial weights and the order of the text
  Precision precision = Precision::kFp32;
  Moments moments = Moments::kAuto;
  Fp8Choices fp8;  // REQUIRES precision kFp8, but for what is the default
  CoreKind core = CoreKind::kFused;
  Recompute recompute;                       // what is not kept for backward
  double learning_rate = 1e-3;               // peak
  double final_learning_rate = 1e-4;         // reached by cosine at the last step
  int64_t warmup_steps = 0;                  // linear, from 0; the last one at the peak
  int64_t constant_steps = 0;                // further ones at the peak
  int64_t hold_steps = 0;                    // at final_learning_rate, behind the cosine
  int64_t tail_steps = 0;                    // the last ones, at
  std::optional<double> tail_learning_rate;  // none: final_learning_rate
  double beta1 = 0.9;                        // AdamW (report, section 4.2)
  double beta2 = 0.95;
  double adam_eps = 1e-8;
  double weight_decay = 0.1;         // on matrices; not on norm gains
  double gradient_clip = 1.0;        // global L2 norm; 0: no clipping
  double bias_update_speed = 0.001;  // gamma of auxiliary-loss-free balancing; 0: biases stay
  double balance_loss = 1e-4;        // alpha of the balance loss (equations 17-20)
  BalanceOver balance_over = BalanceOver::kSequence;  // what that loss is taken over
  double ema = 0;         // decay of a moving average of the weights, aside; 0: none
  double mtp_loss = 0.3;  // lambda of the multi-token-prediction loss
  bool operator==(const Training&) const = default;
};

// As the precision's, with the moments that are asked for.
PrecisionBytes bytes_of(const Training& training);
// What this project's runtime holds on cores.
RuntimeFormats runtime_formats(const Training& training);

// Who chooses experts in `train`.
enum class Routing : uint8_t {
  kLearned,   // the gate
  kBalanced,  // a fixed balanced pattern (balanced_choice), as in published profiles
};

inline constexpr NameTable kRoutings{std::to_array<Named<Routing>>(
    {{Routing::kLearned, "learned"}, {Routing::kBalanced, "balanced"}})};
static_assert(kRoutings.complete());

// How often the simulator's routing counts change.
enum class LoadVaries : uint8_t { kNever, kLayer, kMicroBatch };
inline constexpr NameTable kLoadVaries{
    std::to_array<Named<LoadVaries>>({{LoadVaries::kNever, "never"},
                                      {LoadVaries::kLayer, "layer"},
                                      {LoadVaries::kMicroBatch, "micro_batch"}})};
static_assert(kLoadVaries.complete());

// Routing counts that `simulate` takes for clusters of GPUs (sim/expert_load.h).
struct ExpertLoadSpec {
  bool synthetic = false;  // else balanced, or
  std::string
      recorded;  // a file of recorded routing (plan/routing/routing_file.h), found; empty: none
  SourcePlace recorded_at;  // where the plan names it, for errors found when it is read
  double skew = 0;          // standard deviation of the logarithm of experts' popularity
  int64_t seed = 1;
  LoadVaries varies = LoadVaries::kNever;  // kMicroBatch: by layer, micro-batch and EP group
  bool balanced() const { return !synthetic && recorded.empty(); }
};

struct DataSource {
  std::optional<std::string> text;   // a plain text file, one token per byte
  std::string document_separator;    // between its documents; empty: it is one
  double fim_rate = 0;               // share of training documents with their middle at the end
  double validation_fraction = 0.1;  // of the text, its end
};

// A whole training: phases one after the other, each with a layout, sequence length and batch of
// its own, and what a GPU-hour costs. A part of a phase has one batch size.
struct PhasePart {
  int64_t sequences = 0;  // per step, of the whole cluster
  double tokens = 0;      // of the phase that are trained on so
  Layout layout;
  Training training;
};
struct Phase {
  std::string name;
  std::vector<PhasePart> parts;
};
struct Budget {
  std::optional<double> usd_per_gpu_hour;
  std::optional<double> watts_per_gpu;  // with its share of host, network and cooling
  std::vector<Phase> phases;            // none: the plan's tokens at its own step
};

struct Plan {
  std::string path;                // of the plan file
  std::vector<std::string> files;  // all that it was read from or names, itself among them
  Model model;
  Cluster cluster;
  Layout layout;
  Training training;
  DataSource data;
  Routing routing = Routing::kLearned;          // of `train`
  ExpertLoadSpec expert_load;                   // of `simulate`
  std::optional<std::string> expert_placement;  // a file (plan/routing/placement.h); none: in order
  // Path, found, or "none": costs are what flops and bytes allow. Not there: that of the GPUs,
  // where it is known.
  std::optional<std::string> calibration;
  Budget budget;

  // Of one rank, between matrices.
  int64_t micro_batch_tokens() const {
    return training.micro_batch_size * training.sequence_length / layout.token_ranks();
  }
  // Of all ranks that share a matrix.
  int64_t gathered_tokens() const {
    return training.micro_batch_size * training.sequence_length / layout.cp;
  }
  int64_t step_tokens() const {
    return training.micro_batch_size * training.sequence_length * training.micro_batches *
           layout.dp;
  }
};

// What is computed again where a plan does not say: the report's recipe on GPUs; nothing on cores,
// whose memory is large.
Recompute usual_recompute(const Cluster& cluster);

// Reads a plan and the files it names, which are looked for beside it, then in the share folder.
// Refuses layouts and steps that are not legal (plan/legal.h); what devices cannot compute is
// refused where it is priced. Throws InputError naming file, line and key.
Plan load_plan(const std::string& path);

// What a plan's file says, key by key, in its order; what is as without a key is left out.
struct PlanSetting {
  std::string section;  // the mapping's key; empty: the top of the file
  std::string key, value;
};
std::vector<PlanSetting> settings_of(const Plan& plan);
// These as a file that load_plan reads, its files named as plan.files has them; phases of the
// budget, which have layouts of their own, are left out.
std::string print_plan(const Plan& plan);

// A model's or cluster's file by name: as given, with .yaml, or one that comes with the program, of
// `kind` (models, topologies). Throws InputError naming what is there.
std::string find_shared(const std::string& name, const std::string& kind);

// The sizes that decide what an op of the plan is, in words: two timelines can be compared where
// they are of the same. Letters, digits, blanks, commas, points and hyphens.
std::string shapes_of(const Plan& plan);

// The plan as it is during a part of a phase.
Plan plan_of(const Plan& plan, const PhasePart& part);

// The folder with the models and topologies that come with the program.
std::string share_folder();

}  // namespace rehearse
