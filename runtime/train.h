#pragma once
// Training: steps of a plan's Program on a device, with a log, validation and measured timelines.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "plan/program/timeline.h"
#include "runtime/devices/cpu/cpu_device.h"
#include "runtime/communicators/local/local_communicator.h"

namespace rehearse {

struct StepLog {
  int64_t step = 0;  // from 0
  double loss = 0;   // nats per token, mean over the batch
  double gradient_norm = 0;
  double learning_rate = 0;
  Duration time;
  double tokens_per_s = 0;
  double tflops_per_rank = 0;           // causal attention counted (FLOPs of layers and head)
  double max_expert_load = 0;           // most loaded expert over the mean, worst layer
  std::vector<double> expert_load;      // the same per MoE layer
  std::vector<double> expert_load_p95;  // 95th percentile over the mean, per MoE layer
  int64_t overruns = 0;                 // ops that an emulated device could not hold to their time
  Bytes memory;                         // activations' high-water mark, worst rank
  std::optional<double> validation_loss;  // after the step, when it was due
};

// One JSON object, no line break.
std::string print_step(const StepLog& log);

struct TrainOptions {
  int64_t steps = 0;
  int64_t validate_every = 0;                   // 0: only after the last step
  int64_t validation_steps = 4;                 // batches that a validation averages
  std::function<void(const StepLog&)> on_step;  // called after every step
};

struct TrainResult {
  std::vector<StepLog> log;
  std::optional<double> validation_loss;  // after the last step; none without held-out text
  Duration median_step;
  double max_expert_load = 0;  // mean over the last tenth of the steps
  Timeline timeline;           // of the step whose time is the median, first steps left out
};

class Trainer {
 public:
  // Throws InputError for text that does not suit the plan.
  Trainer(const Plan& plan,
          const std::string& text_path,
          Duration hang_timeout = Duration::seconds(kDefaultHangTimeout));

  TrainResult train(const TrainOptions& options);

  // One step on batch `step` without validation; for tests.
  StepLog step(int64_t step);
  double validate(int64_t steps);

  const Program& program() const { return program_; }
  CpuDevice& device() { return device_; }
  const TextData& data() const { return data_; }
  const Timeline& last_timeline() const { return timeline_; }
  // Links of an emulated cluster; null where ranks share memory.
  LinkShaper* links() { return communicator_.links(); }

 private:
  double learning_rate(int64_t step) const;

  const Plan& plan_;
  Program program_;
  Program forward_program_;
  TextData data_;
  LocalCommunicator communicator_;
  CpuDevice device_;
  Workers workers_;
  Workers forward_workers_;
  Timeline timeline_;
};

}  // namespace rehearse
