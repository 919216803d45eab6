#pragma once
// What a pipeline rank must hold, by kind, at the moment at which it holds most.

#include <array>
#include <vector>

#include "base/units.h"
#include "cost/gpu_tasks.h"
#include "plan/plan.h"
#include "plan/program/schedule.h"

namespace rehearse {

struct RankMemory {
  Bytes parameters;  // weights as computed with; on cores under FP8 in BF16, and as codes
  Bytes gradients;   // FP32
  Bytes optimizer;   // moments, and FP32 master weights where those are not the parameters
  // Held from forward to weight gradients, at the schedule's peak. On cores in BF16 each thread has
  // besides a panel of weights in FP32, 1 MiB or a row (kernels/matmul).
  Bytes activations;
  Bytes total() const { return parameters + gradients + optimizer + activations; }

  // Besides, on GPUs: what lives for an op alone (gradients between a layer's ops, tokens on their
  // way to experts), and what is set aside for libraries and what an allocator cannot use.
  Bytes passing, reserve;
  Bytes need() const { return total() + passing + reserve; }
  HeldMoment peak;  // of the activations
};

// Weights of one stage, in elements.
struct StageWeights {
  int64_t dense = 0;   // held by every rank of the stage
  int64_t expert = 0;  // one rank's share of the routed experts
};
StageWeights stage_weights(const Plan& plan, int64_t stage);
StageWeights layer_weights(const Plan& plan, int64_t layer);
// Of those, what is of no layer: embedding, head, MTP modules' projections.
int64_t stage_ends(const Plan& plan, int64_t stage);

// What layouts have in common that share out matrices, sequences, experts and micro-batches alike,
// so that many can be asked about: of each kind of layer what it weighs and keeps.
class MemoryParts {
 public:
  // imbalance: rows of a rank's experts over the mean rank's; 1: balanced. What plan.layout says of
  // pipeline, schedule and ZeRO does not count.
  // on_card: this program trains the plan on one.
  explicit MemoryParts(const Plan& plan, double imbalance = 1, bool on_card = false);

  static constexpr size_t kKinds = 4;  // as Layers::of: 1 with experts, 2 with a window
  using Counts = std::array<int64_t, kKinds>;
  // What stands in one stage, whatever the schedule and ZeRO.
  struct Stage {
    Counts layers{};  // MTP modules' among the last's
    StageWeights weights;
    int64_t largest = 0;  // weights of its largest layer
    int64_t ends = 0;     // of what is of no layer
    int64_t codes = 0;    // bytes of weights in FP8, on cores beside those in BF16
    Held held;            // bytes of one micro-batch
    Bytes once;           // of one micro-batch at a time
    double passing = 0;   // bytes within one layer's backward
  };
  std::vector<Stage> stages(const Layout& layout) const;
  // Of a pipeline rank that holds these of the stages, whose schedule has these moments.
  RankMemory of(const Layout& layout,
                const std::vector<const Stage*>& held,
                const std::vector<HeldMoment>& moments) const;
  // Adds what hangs on ZeRO.
  void add_weights(const Layout& layout, const Stage& stage, RankMemory& memory) const;

 private:
  Architecture architecture_;
  PrecisionBytes bytes_;
  bool gpu_ = false;
  bool ema_ = false;
  bool recompute_layers_ = false;
  int64_t tp_ = 1;
  double tokens_ = 0;
  int64_t gathered_tokens_ = 0;
  ParameterCounts counts_;
  std::vector<Counts> before_;  // of layers before each
  std::array<StageWeights, kKinds> weights_;
  std::array<int64_t, kKinds> codes_{};
  RuntimeFormats formats_;  // on cores
  // Bytes of a micro-batch in a layer. again_: besides, while its backward runs; waiting_: besides,
  // until its weight gradients, where they come later; ending_: besides, while such a backward
  // ends.
  std::array<double, kKinds> kept_{}, again_{}, waiting_{}, ending_{}, passing_{};
  double message_ = 0;  // bytes of a micro-batch on its way to experts, out and in
};

// Of pipeline rank `pp_rank`, any data rank.
RankMemory rank_memory(const Plan& plan, int64_t pp_rank);
// The same where this program trains the plan on a card: in its own formats, with room for rows of
// experts that may come (card_room.h).
RankMemory card_memory(const Plan& plan, int64_t pp_rank);

// What the most loaded device needs: on a CPU node all of its ranks share the memory.
Bytes device_need(const Plan& plan);
// Whether that is there.
bool fits_memory(const Plan& plan);

// Whether a layout fits, with what is to spare.
enum class Fit : uint8_t {
  kFits,
  kTight,  // less than a twentieth to spare
  kShort,
};
inline constexpr NameTable kFits{std::to_array<Named<Fit>>(
    {{Fit::kFits, "fits"}, {Fit::kTight, "tight"}, {Fit::kShort, "short"}})};
static_assert(kFits.complete());
Fit fit_of(Bytes need, Bytes memory);

}  // namespace rehearse
