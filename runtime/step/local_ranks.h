#pragma once
// The local ranks of a plan: their state, and what each op does to it, by operations of a device
// that it does not know.

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "runtime/data/text_data.h"
#include "runtime/devices/device.h"
#include "runtime/layers/mtp.h"
#include "runtime/run.h"
#include "runtime/step/named_tensor.h"
#include "runtime/step/rank_state.h"
#include "runtime/step/step_settings.h"

namespace rehearse {

class LocalRanks : public Device {
 public:
  // All but the recipe must outlive it.
  LocalRanks(const Plan& plan,
             const PrecisionRecipe& recipe,
             const Program& program,
             const TextData& data,
             Communicator& communicator,
             TrainingDevice& device);
  ~LocalRanks() override;

  // --- a step
  // Before it: its settings; counters and losses start at zero. Not while a step runs.
  void begin_step(const StepSettings& settings);
  Enqueuing enqueuing() const override { return device_.enqueuing(); }
  void enqueue(const OpAt& at, const Ready& ready) override;
  void wait(const OpAt& at, OpId dependency) override;
  void end_step(Timeline& timeline) override;
  std::vector<OpId> under_way() override { return device_.under_way(); }
  bool has_begun(OpId id) override { return device_.has_begun(id); }
  int64_t ended() override { return device_.ended(); }
  void abort() override;
  // After it: what it left behind, in the entries of this process's ranks.
  StepResults results() const;
  // The step had more rows of experts than room: there is more for the next one.
  void make_room() { device_.make_room(); }

  // --- routing
  // Whether steps keep every token's choice of experts.
  void record_choices(bool on) { record_choices_ = on; }
  // The choices kept of the last training step, and the gate's weights: [tokens, active]; empty
  // where this process does not hold the data rank's copy of the layer that had the micro-batch.
  struct Recorded {
    std::span<const int32_t> choices;
    std::span<const float> weights;
  };
  Recorded recorded_choices(int64_t layer, int32_t data_rank, int64_t micro_batch) const;

  // --- state (state.cpp), under Hugging Face's names, whatever the layout
  // Every parameter's tensor, of a kind, under its name; of weights the experts' biases too.
  // Gradients: of the last step, a probe. Not while a step runs. REQUIRES: all ranks are this
  // process's.
  std::vector<NamedTensor> state(StateKind kind) const {
    std::vector<NamedTensor> all;
    state(kind, all, 0);
    return all;
  }
  // The same into out[at] and what follows it, whose memory is used again; returns the place behind
  // the last.
  size_t state(StateKind kind, std::vector<NamedTensor>& out, size_t at) const;
  // Asks for every tensor that local ranks hold something of. Not gradients.
  void set_state(StateKind kind, const TensorLookup& lookup);
  // Of the last step, a probe: [tokens, vocabulary]; empty where this process does not hold them.
  std::span<const float> recorded_logits(int32_t data_rank, int64_t micro_batch) const;

  // --- for tests
  // From now on op `id` of data rank 0 never ends, in training steps: a rank that stops.
  void plant_fault(int32_t id) { fault_ = id; }
  // The most micro-batches whose activations a rank held at once in the last step: from the start
  // of a stage's first attention to the end of its weight gradients.
  int64_t peak_micro_batches(int64_t rank) const { return rank_at(rank).peak_micro_batches; }
  // The copy of a stage on a rank. Throws InternalError for a rank of another process.
  Stage& stage(int64_t pp_rank, int32_t data_rank, int32_t slot);

 private:
  // Local copies of a stage, in the order of ranks.
  struct Holder {
    Place place;
    Stage* stage = nullptr;
  };
  std::vector<Holder> holders(int64_t stage) const;
  RankState& rank_at(int64_t global_rank) const;
  int64_t rank_of(const OpAt& at) const {
    return plan_.layout.rank_of({at.op.pp_rank, at.data_rank});
  }
  LayerContext context(RankState& rank) const;
  Batch batch(const Op& op, int32_t data_rank) const;
  MemberLoad load_of(const Op& op, int32_t data_rank);
  void work(const Op& op, int32_t data_rank, const Ready& ready);
  void forward_op(const Op& op, RankState& rank, int32_t data_rank);
  void attention_op(const Op& op, RankState& rank);
  void input_op(const Op& op, RankState& rank, int32_t data_rank);
  void all_to_all_op(const Op& op, RankState& rank, const Ready& ready);
  void weight_op(const Op& op, RankState& rank, int32_t data_rank);
  void message_op(const Op& op, RankState& rank, int32_t data_rank, const Ready& ready);
  size_t module_of(const Op& op) const;
  // What an op of the model's end is given: of module 0 the batch's own, then the tokens ahead.
  Tensor inputs_of(const LayerContext& c, const Op& op, int32_t data_rank, size_t module) const;
  Tensor targets_of(const LayerContext& c, const Op& op, int32_t data_rank, size_t module) const;
  Batch batch_of(const Op& op, int32_t data_rank, size_t module) const;
  MtpWeights mtp_weights(RankState& rank, Stage& s, size_t module) const;
  std::optional<int64_t> handed_on(const Op& op, int64_t slot, int64_t next) const;
  ChunkActivations& chunk_of(const Op& op, RankState& rank, int64_t slot);
  Tensor& entry(const Op& op, RankState& rank, int64_t slot);
  Tensor& exit(const Op& op, RankState& rank, int64_t slot);
  Tensor& d_entry(const Op& op, RankState& rank, int64_t slot);
  Tensor& d_exit(const Op& op, RankState& rank, int64_t slot);
  Tensor& slot_after(const Op& op, RankState& rank, size_t local_layer);

  const Plan& plan_;
  const Program& program_;
  const TextData& data_;
  Communicator& communicator_;
  TrainingDevice& device_;
  PrecisionRecipe recipe_;
  std::vector<std::unique_ptr<RankState>> ranks_;  // by global rank; null: on another process
  StepSettings settings_;
  std::optional<int32_t> fault_;
  bool record_choices_ = false;
  std::atomic<bool> aborted_ = false;
};

}  // namespace rehearse
