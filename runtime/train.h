#pragma once
// Training: steps of a plan's Program on a device, with a log, validation and measured timelines.
//
// The communicator says which ranks are this process's. Every process has a Trainer of its own and
// calls the same functions in the same order; each gets the whole training's results, the same bits
// on all of them and however the ranks are spread over processes (times excepted).

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "plan/batch_ramp.h"
#include "plan/program/timeline.h"
#include "runtime/communicators/communicator.h"
#include "runtime/devices/device.h"
#include "runtime/run.h"
#include "runtime/step/local_ranks.h"

namespace rehearse {

struct StepLog {
  int64_t step = 0;                // from 0
  double loss = 0;                 // nats per token, mean over the batch
  std::vector<double> mtp_losses;  // the same of MTP modules, over the tokens that they predict
  double gradient_norm = 0;
  double learning_rate = 0;
  int64_t sequences = 0;  // of its batch
  Duration time;
  double tokens_per_s = 0;
  double tflops_per_rank = 0;  // causal attention counted (FLOPs of layers and head)
  double max_expert_load = 0;  // most loaded expert over the mean, worst layer
  // Per MoE layer, MTP's last: the most loaded expert over the mean, and percentiles over it.
  std::vector<double> expert_load;
  std::vector<double> expert_load_p50, expert_load_p90, expert_load_p95, expert_load_p99;
  double bubble = 0, exposed_comm = 0;  // shares of the step, means over ranks
  Overruns overruns;
  Bytes memory;                           // activations' high-water mark, worst rank
  std::optional<double> validation_loss;  // after the step, when it was due
};

// One JSON object, no line break; its steps count from 1, as progress and checkpoints have them.
std::string print_step(const StepLog& log);

// The first steps find cold caches and pools: the median leaves so many out, where a training has
// more than kFewSteps.
constexpr int64_t kWarmSteps = 2;
constexpr int64_t kFewSteps = 5;

constexpr size_t kSpikeSteps = 20;

struct TrainOptions {
  int64_t steps = 0;             // of which the first is
  int64_t first_step = 0;        // below steps
  int64_t validate_every = 0;    // 0: only after the last step
  int64_t validation_steps = 4;  // batches that a validation averages; 0: none
  // Nats above the mean of the last kSpikeSteps losses that end the training, with an InputError
  // before anybody is told of the step; 0: none do.
  double spike = 0;
  std::function<void(const StepLog&)> on_step;  // called after every step; what it throws ends all
  std::function<bool()> stop =
      {};  // asked after every step, on every process: whether to end early
};

// Its size does not depend on the number of steps; what a caller wants of every step it takes in
// on_step.
struct TrainResult {
  int64_t steps = 0;       // that are done, those before first_step among them
  int64_t first_step = 0;  // TrainOptions::first_step
  double first_loss = 0;   // of the first and of the last step, as in StepLog
  double last_loss = 0;
  std::optional<double> validation_loss;  // after the last step; none without held-out text
  // Of all steps but the first ones (kWarmSteps); where the batch grew, of those as large as the
  // last.
  Duration median_step;
  double max_expert_load = 0;  // mean over the last tenth of the steps
  Bytes memory;                // activations' high-water mark, worst rank
  Overruns overruns;           // of all steps
  // Of a step whose time is the median, or near it where more steps ran than timelines are kept of
  // (MedianStep), and that step's time. Its load is of the whole training, validations included.
  Timeline timeline;
  Duration timeline_step;
};

// What a Trainer is made of, where it is not what the plan says.
struct TrainerParts {
  // Whose local ranks are trained; null: of the plan's ranks, all in this process.
  std::unique_ptr<Communicator> communicator;
  std::function<std::unique_ptr<TrainingDevice>(const Plan&, Communicator&)> device =
      device_of_plan;
  std::optional<PrecisionRecipe> recipe;  // none: recipe_of the plan's training
  Duration hang_timeout = kDefaultHangTimeout;
};

class Trainer {
 public:
  // `plan` must outlive the Trainer. Throws InputError for text that does not suit the plan.
  Trainer(const Plan& plan, const std::string& text_path, TrainerParts parts = {});

  // REQUIRES: at least one step to run.
  TrainResult train(const TrainOptions& options);

  // Loss, gradients and logits on the batch of step 0, nothing being learnt (StepSettings::probe).
  StepLog probe();

  // One step on batch `step` without validation; for tests.
  StepLog step(int64_t step);
  double validate(int64_t steps);

  // Of the last step, whose batch may still have grown.
  const Program& program() const { return program_; }
  int64_t micro_batches() const { return micro_batches_; }  // of the last step, per data rank
  const TextData& data() const { return data_; }
  // Of the last step of training, all ranks.
  const Timeline& last_timeline() const { return timeline_; }
  const StepResults& last_results() const { return results_; }

  // Whether steps keep every token's choice of experts.
  void record_choices(bool on);
  // Those kept of the last training step: [tokens, active], of every data rank. Called by one
  // thread of every process. REQUIRES: a step run since record_choices(true).
  std::vector<int32_t> recorded_choices(int64_t layer, int32_t data_rank, int64_t micro_batch);

  std::vector<float> recorded_weights(int64_t layer, int32_t data_rank, int64_t micro_batch);

  LocalRanks& ranks() { return ranks_; }
  Communicator& communicator() { return *communicator_; }

 private:
  void make_workers();
  // Makes program_ and its workers those of steps of so many micro-batches.
  void set_micro_batches(int64_t count);
  StepLog run_and_log(const StepSettings& settings);
  void refuse_spike(const TrainOptions& options,
                    const StepLog& log,
                    std::deque<double>& losses) const;
  bool asked_to_stop(const TrainOptions& options);
  void tell(const TrainOptions& options, const StepLog& log);
  // Runs the workers when all processes are there, so that their clocks begin together.
  Timeline run(Workers& workers, const StepSettings& settings);

  const Plan& plan_;
  Program program_;
  Program forward_program_;
  TextData data_;
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<TrainingDevice> device_;
  LocalRanks ranks_;
  BatchRamp ramp_;
  int64_t micro_batches_;
  Duration hang_timeout_;
  std::optional<Workers> workers_;
  Workers forward_workers_;
  Timeline timeline_;
  StepResults results_;
  bool records_choices_ = false;
};

}  // namespace rehearse
