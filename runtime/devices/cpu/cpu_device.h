#pragma once
// The CPU device: all ranks of a plan as state in this process, and what each op does to it.

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "runtime/communicators/communicator.h"
#include "runtime/run.h"
#include "runtime/stage.h"

namespace rehearse {

// What a step is given and what it leaves behind beside the weights.
struct StepSettings {
  int64_t step = 0;  // from 0
  double learning_rate = 0;
  bool validation = false;  // forward only: inputs are validation windows from `first_window` on
  int64_t first_window = 0;
};

class CpuDevice : public Device {
 public:
  // `data`, `program` (and the forward-only one, if any) and `communicator` must outlive it.
  CpuDevice(const Plan& plan, const Program& program, const TextData& data, Communicator& c);

  // Before a step: its settings; counters and losses start at zero. Not while a step runs.
  void begin_step(const StepSettings& settings);

  void run_op(const Op& op, int32_t data_rank, const std::function<void()>& ready) override;
  void abort() override;

  // From now on op `id` of data rank 0 never ends, in training steps: a rank that stops.
  void plant_fault(int32_t id) { fault_ = id; }

  // After a step. Sum over micro-batches in their order, over all data ranks, of token losses,
  // divided by the tokens.
  double mean_loss() const;
  double gradient_norm() const { return gradient_norm_; }
  // Tokens per expert of `layer` over the whole batch, and how they were chosen: [experts].
  std::vector<int64_t> expert_load(int64_t layer) const;
  // Whether steps keep every token's choice of experts, and the choices kept: [tokens, active].
  void record_choices(bool on) { record_choices_ = on; }
  std::span<const int32_t> recorded_choices(int64_t layer,
                                            int32_t data_rank,
                                            int64_t micro_batch) const;
  // The most micro-batches whose activations a rank held at once in the last step: from the start
  // of a stage's first attention to the end of its weight gradients.
  int64_t peak_micro_batches(int64_t rank) const;
  Bytes peak_activation_memory(int64_t rank) const;
  // On an emulated device: ops of the step that took longer than their emulated time, because this
  // machine's cores could not keep up.
  int64_t overruns() const { return overruns_; }

  // The copy of a stage on a rank, for tests and checkpoints.
  Stage& stage(int64_t pp_rank, int32_t data_rank, int32_t direction);
  const Stage& stage(int64_t pp_rank, int32_t data_rank, int32_t direction) const;

 private:
  struct Rank {
    BufferPool pool;           // before the tensors that use it
    std::deque<Stage> copies;  // by direction
    std::optional<ExpertGroup> experts;
    double gradient_norm = 0;
    int64_t held_micro_batches = 0;  // touched by the compute lane alone
    int64_t peak_micro_batches = 0;
  };

  void work(const Op& op, int32_t data_rank, const Ready& ready);
  void hold(const Op& op, int32_t data_rank, std::chrono::steady_clock::time_point begin);
  Rank& rank_of(const Op& op, int32_t data_rank);
  LayerContext context(Rank& rank) const;
  Batch batch(const Op& op, int32_t data_rank) const;
  void forward_op(const Op& op, Rank& rank, int32_t data_rank);
  void input_op(const Op& op, Rank& rank, int32_t data_rank);
  void all_to_all_op(const Op& op, Rank& rank, const Ready& ready);
  void weight_op(const Op& op, Rank& rank, int32_t data_rank);
  void message_op(const Op& op, Rank& rank, int32_t data_rank, const Ready& ready);
  void step_op(const Op& op, Rank& rank, int32_t data_rank, const Ready& ready);
  void reduce_gradients(const Op& op, Stage& s, int32_t data_rank, const Ready& ready);
  void gradient_norm_op(const Op& op, Rank& rank, int32_t data_rank, const Ready& ready);
  void optimizer(const Op& op, Rank& rank, int32_t data_rank);
  void update_bias(const Op& op, Stage& s, int32_t data_rank, const Ready& ready);
  // The shard of an arena of `s` that this rank's optimizer owns.
  Shard owned(const Stage& s, Arena arena, const Op& op, int32_t data_rank) const;
  std::vector<int64_t> ranks_of(const Op& op, int32_t data_rank) const;
  Tensor& slot_after(ChunkActivations& chunk, size_t local_layer);

  const Plan& plan_;
  const Program& program_;
  const TextData& data_;
  Communicator& communicator_;
  kernels::RopeTable rope_;
  std::vector<std::unique_ptr<Rank>> ranks_;  // by global rank
  StepSettings settings_;
  double gradient_norm_ = 0;
  std::atomic<int64_t> overruns_ = 0;
  std::optional<int32_t> fault_;
  bool record_choices_ = false;
  std::atomic<bool> aborted_ = false;
};

}  // namespace rehearse
