#pragma once
// The device that trains: it holds the state of this process's ranks and does their ops' work.
//
// A device is a folder of its own here; make_device.cpp chooses it from the plan's cluster.

#include <memory>
#include <span>

#include "runtime/communicators/communicator.h"
#include "runtime/data/text_data.h"
#include "runtime/run.h"
#include "runtime/step_results.h"

namespace rehearse {

// What a step is given.
struct StepSettings {
  int64_t step = 0;  // from 0
  double learning_rate = 0;
  bool validation = false;  // forward only: inputs are validation windows from `first_window` on
  int64_t first_window = 0;
};

class TrainingDevice : public Device {
 public:
  // Before a step: its settings; counters and losses start at zero. Not while a step runs.
  virtual void begin_step(const StepSettings& settings) = 0;

  // After a step: what it left behind, in the entries of this process's ranks.
  virtual StepResults results() const = 0;

  // Whether steps keep every token's choice of experts.
  virtual void record_choices(bool on) = 0;
  // The choices kept of the last training step: [tokens, active]; empty where this process does not
  // hold the data rank's copy of the layer that had the micro-batch.
  virtual std::span<const int32_t> recorded_choices(int64_t layer,
                                                    int32_t data_rank,
                                                    int64_t micro_batch) const = 0;

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
