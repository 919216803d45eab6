#pragma once
// A training with all that it leaves in its folder: log, checkpoints, recorded routing,
// TensorBoard's files. Begun, or gone on with; ended by its last step or a signal.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/folder_lock.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/train.h"

namespace rehearse {

struct TrainingRunOptions {
  TrainOn device = TrainOn::kCores;
  std::string text;                          // the text's file
  std::string out;                           // the folder
  std::string who;                           // for others who find the folder locked
  int64_t until = 0;                         // end after so many steps of all
  int64_t validate_every = 0;                // 0: after the last alone
  std::optional<int64_t> validation_tokens;  // at least; none: of four batches
  int64_t checkpoint_every = 0;              // 0: only on a signal
  int64_t keep = 3;                          // checkpoints that stay
  bool save_on_signal = true;
  bool resume = false;  // go on from the newest whole checkpoint, where there is one
  bool change = false;  // with another recipe too
  bool force = false;   // over what a run left before
  bool lock = true;     // keep others out of the folder
  double spike = 0;     // TrainOptions::spike
  Duration hang_timeout = kDefaultHangTimeout;
  std::optional<int32_t> plant_fault;  // an op that never ends, for trying hang reports
  std::optional<std::string> from;     // weights to start from
  std::optional<std::string> tensorboard, record_routing;
  std::function<void(const std::string&)> note;     // what a person should know; no failure
  std::function<void(const std::string&)> trouble;  // a result was lost; the training goes on
  std::function<void(const StepLog&)> on_step = [](const StepLog&) {};
};

struct TrainingRunResult {
  std::optional<TrainResult> trained;  // none: nothing was left to do
  int64_t first_step = 0;              // steps that were there
  std::string resumed_from;            // a checkpoint's folder; empty: begun anew
  std::vector<Difference> changed;     // of recipe and layout, since
  std::optional<int> signal;           // that ended it
  std::string saved;                   // the last checkpoint, "" where there is none
};

// Files of a run's folder.
struct RunFiles {
  std::string log, timeline, result, checkpoints;
  explicit RunFiles(const std::string& folder);
};

// What its Trainer is made of.
TrainerParts parts_of(const TrainingRunOptions& options);

class TrainingRun {
 public:
  // Takes the folder, and the state it goes on from. Throws InputError: for a folder that another
  // process has, or in which a run is that is not to be touched; for a checkpoint of another
  // training. `plan` must outlive this.
  TrainingRun(const Plan& plan, TrainingRunOptions options);
  ~TrainingRun();
  TrainingRun(const TrainingRun&) = delete;
  TrainingRun& operator=(const TrainingRun&) = delete;

  Trainer& trainer();
  // Once.
  TrainingRunResult train();

 private:
  struct Outputs;
  void go_on();
  void save(int64_t steps, double loss);
  void after_step(const StepLog& step);
  void say_what_is_at_stake(int64_t steps) const;
  int64_t validation_steps() const;
  std::string begin_of_log() const;

  const Plan& plan_;
  TrainingRunOptions options_;
  RunFiles files_;
  std::optional<FolderLock> lock_;
  std::unique_ptr<Trainer> trainer_;
  CheckpointInfo info_;
  TrainingRunResult result_;
  std::unique_ptr<Outputs> outputs_;
};

}  // namespace rehearse
