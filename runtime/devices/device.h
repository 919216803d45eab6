#pragma once
// The device that trains: it holds the state of this process's ranks and does their ops' work.
//
// A device is a folder of its own here; make_device.cpp chooses it from the plan's cluster.

#include <memory>
#include <span>

#include "runtime/checkpoints/named_tensor.h"
#include "runtime/communicators/communicator.h"
#include "runtime/data/text_data.h"
#include "runtime/run.h"
#include "runtime/step_results.h"

namespace rehearse {

// What a step is given.
struct StepSettings {
  int64_t step = 0;           // from 0
  int64_t micro_batches = 0;  // per data rank, at most the plan's
  double learning_rate = 0;
  bool validation = false;  // forward only: inputs are validation windows from `first_window` on
  int64_t first_window = 0;
  // Gradients alone: weights, moments and biases stay, gradients are not clipped and stay too, and
  // logits are kept.
  bool probe = false;
};

class TrainingDevice : public Device {
 public:
  // Before a step: its settings; counters and losses start at zero. Not while a step runs.
  virtual void begin_step(const StepSettings& settings) = 0;

  // After a step: what it left behind, in the entries of this process's ranks.
  virtual StepResults results() const = 0;

  // Whether steps keep every token's choice of experts.
  virtual void record_choices(bool on) = 0;
  // The choices kept of the last training step, and the gate's weights: [tokens, active]; empty
  // where this process does not hold the data rank's copy of the layer that had the micro-batch.
  struct Recorded {
    std::span<const int32_t> choices;
    std::span<const float> weights;
  };
  virtual Recorded recorded_choices(int64_t layer,
                                    int32_t data_rank,
                                    int64_t micro_batch) const = 0;

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
  virtual size_t state(StateKind kind, std::vector<NamedTensor>& out, size_t at) const = 0;
  // Asks for every tensor that local ranks hold something of. Not gradients.
  virtual void set_state(StateKind kind, const TensorLookup& lookup) = 0;
  // Of the last step, a probe: [tokens, vocabulary]; empty where this process does not hold them.
  virtual std::span<const float> recorded_logits(int32_t data_rank, int64_t micro_batch) const = 0;

  // From now on op `id` of data rank 0 never ends, in training steps: a rank that stops.
  virtual void plant_fault(int32_t id) = 0;
};

// The device of the plan's cluster, with the state of the communicator's local ranks. All arguments
// must outlive it.
std::unique_ptr<TrainingDevice> make_device(const Plan& plan,
                                            const Program& program,
                                            const TextData& data,
                                            Communicator& communicator);

}  // namespace rehearse
