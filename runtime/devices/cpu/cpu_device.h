#pragma once
// The CPU device: the local ranks of a plan as state in this process, and what each op does to it.

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "plan/program/op_work.h"
#include "runtime/devices/cpu/cpu_rank.h"
#include "runtime/devices/device.h"
#include "runtime/layers/mtp.h"

namespace rehearse {

class CpuDevice : public TrainingDevice {
 public:
  // All five must outlive it.
  CpuDevice(const Plan& plan, const Program& program, const TextData& data, Communicator& c);

  void run_op(const Op& op, int32_t data_rank, const Ready& ready) override;
  void abort() override;
  void begin_step(const StepSettings& settings) override;
  StepResults results() const override;
  void record_choices(bool on) override { record_choices_ = on; }
  Recorded recorded_choices(int64_t layer, int32_t data_rank, int64_t micro_batch) const override;
  size_t state(StateKind kind, std::vector<NamedTensor>& out, size_t at) const override;
  using TrainingDevice::state;
  void set_state(StateKind kind, const TensorLookup& lookup) override;
  std::span<const float> recorded_logits(int32_t data_rank, int64_t micro_batch) const override;
  void plant_fault(int32_t id) override { fault_ = id; }

  // The most micro-batches whose activations a rank held at once in the last step: from the start
  // of a stage's first attention to the end of its weight gradients.
  int64_t peak_micro_batches(int64_t rank) const;

  // The copy of a stage on a rank, for tests and checkpoints. Throws InternalError for a rank of
  // another process.
  Stage& stage(int64_t pp_rank, int32_t data_rank, int32_t slot);

 private:
  // Local copies of a stage, in the order of ranks.
  struct Holder {
    Place place;
    Stage* stage = nullptr;
  };
  std::vector<Holder> holders(int64_t stage) const;
  void work(const Op& op, int32_t data_rank, const Ready& ready);
  void hold(const Op& op, int32_t data_rank, std::chrono::steady_clock::time_point begin);
  CpuRank& rank_at(int64_t global_rank) const;
  LayerContext context(CpuRank& rank) const;
  Batch batch(const Op& op, int32_t data_rank) const;
  void forward_op(const Op& op, CpuRank& rank, int32_t data_rank);
  void input_op(const Op& op, CpuRank& rank, int32_t data_rank);
  void all_to_all_op(const Op& op, CpuRank& rank, const Ready& ready);
  void weight_op(const Op& op, CpuRank& rank, int32_t data_rank);
  void message_op(const Op& op, CpuRank& rank, int32_t data_rank, const Ready& ready);
  size_t module_of(const Op& op) const;
  Batch batch_of(const Op& op, int32_t data_rank, size_t module) const;
  MtpWeights mtp_weights(CpuRank& rank, Stage& s, size_t module) const;
  std::optional<int64_t> handed_on(const Op& op, int64_t slot, int64_t next) const;
  ChunkActivations& chunk_of(const Op& op, CpuRank& rank, int64_t slot);
  Tensor& entry(const Op& op, CpuRank& rank, int64_t slot);
  Tensor& exit(const Op& op, CpuRank& rank, int64_t slot);
  Tensor& d_entry(const Op& op, CpuRank& rank, int64_t slot);
  Tensor& d_exit(const Op& op, CpuRank& rank, int64_t slot);
  Tensor& slot_after(const Op& op, CpuRank& rank, size_t local_layer);

  const Plan& plan_;
  const Program& program_;
  const TextData& data_;
  Communicator& communicator_;
  PrecisionRecipe recipe_;
  OpWork op_work_;
  kernels::RopeTable rope_;
  std::vector<std::unique_ptr<CpuRank>> ranks_;  // by global rank; null: on another process
  StepSettings settings_;
  // Of an emulated device, since the step's beginning; times in picoseconds.
  struct {
    std::atomic<int64_t> ops = 0, of = 0, time = 0, held = 0;
  } overruns_;
  std::optional<int32_t> fault_;
  bool record_choices_ = false;
  std::atomic<bool> aborted_ = false;
};

}  // namespace rehearse
