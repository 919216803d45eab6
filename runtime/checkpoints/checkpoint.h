#pragma once
// Checkpoints: a training's state in a folder of its own, from which it goes on in any layout.
//
//   checkpoints/step-00000020/
//     manifest.json                        what it is of, and every file's bytes and CRC-32C
//     model-00001-of-00002.safetensors     weights (FP32 masters) and expert biases, under Hugging
//     model.safetensors.index.json         Face's names; every expert by itself
//     optimizer-00001-of-00002.safetensors AdamW's moments: <name>.exp_avg, <name>.exp_avg_sq
//     average-00001-of-00001.safetensors   the weights' moving average, where training.ema is
//
// The folder is written under another name and renamed: one that is there is whole.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/checkpoints/identity.h"
#include "runtime/step/local_ranks.h"
#include "runtime/step/named_tensor.h"

namespace rehearse {

// What a checkpoint is of (runtime/checkpoints/identity.h): what it may go on as is asked of that.
struct CheckpointInfo {
  int64_t step = 0;         // steps that were run
  double loss = 0;          // of the last step
  bool averages = false;    // whether it holds the weights' moving average
  std::string model;        // name, for people
  std::string layout_text;  // it was saved in, for people
  std::vector<Fact> facts;
};

// Saves in the background: the state is copied while the training waits, and written while it goes
// on.
class CheckpointSaver {
 public:
  // keep: newest ones that stay, at least one. Removes what an earlier process did not finish.
  CheckpointSaver(std::string folder, int64_t keep);
  ~CheckpointSaver();
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  // Waits for an earlier one. Not while a step runs.
  void save(const LocalRanks& ranks, const CheckpointInfo& info);
  // Waits until all are on the disk.
  void finish();
  // Steps of the last one that was begun; none so far.
  std::optional<int64_t> last_step() const { return last_step_; }
  // What went wrong since it was last asked, as a full disk; else empty. Calls finish().
  std::string error();

 private:
  struct Snapshot;
  void write(const Snapshot& snapshot);

  std::string folder_;
  int64_t keep_;
  std::optional<int64_t> last_step_;
  std::unique_ptr<Snapshot> snapshot_;  // of the last save: the next one's memory
  std::thread writing_;
  std::string error_;
};

// A checkpoint that was found whole.
struct Checkpoint {
  std::string folder;
  CheckpointInfo info;
};
// The newest whole one of a folder, its files checked; what is not whole is passed over and named
// in `passed_over`.
std::optional<Checkpoint> newest_checkpoint(const std::string& folder,
                                            std::vector<std::string>& passed_over);
// The folder of one, saved after `step` steps.
std::string checkpoint_folder(const std::string& folder, int64_t step);
// Whether there are any, whole or not.
bool has_checkpoints(const std::string& folder);
// One folder. Throws InputError where it is not whole.
Checkpoint open_checkpoint(const std::string& folder);

// Weights, biases and moments, and the weights' moving average where there is one, unless it is not
// wanted. Throws InputError where a tensor is missing or of another shape.
void load_state(const Checkpoint& checkpoint, LocalRanks& ranks, bool with_averages = true);
// Says it on standard error, as a note.
void note_on_stderr(const std::string& text);
// Weights and biases alone: of a checkpoint's folder, of a folder of safetensors files as Hugging
// Face writes them, or of one such file (foreign_weights.h). Throws InputError; names tensors that
// are missing, of another shape, or of another model. note: is told what was passed over.
void load_weights(const std::string& path,
                  LocalRanks& ranks,
                  const std::function<void(const std::string&)>& note = note_on_stderr);

}  // namespace rehearse
