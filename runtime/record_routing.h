#pragma once
// Records the routing of training steps (plan/routing/routing_file.h) beside the training: choices
// are taken over when a step has ended, packed and written by a thread of its own.

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "plan/routing/routing_file.h"
#include "runtime/train.h"

namespace rehearse {

class RoutingRecorder {
 public:
  // Of every step that record() is told of. about: further attributes of the file. Throws
  // InputError when the file cannot be written, and for a plan without experts or whose batch
  // grows.
  RoutingRecorder(const std::string& path,
                  const Plan& plan,
                  Trainer& trainer,
                  std::map<std::string, std::string> about);
  ~RoutingRecorder();

  // The step that has just ended. Waits where more than a few steps are still to be written.
  void record(int64_t step);
  // Writes what is left. What was wrong, or nothing; then the file has the steps before.
  std::string finish();

 private:
  struct Step {
    int64_t number = 0;
    std::vector<std::vector<int32_t>> choices;  // [micro-batch x layer]
    std::vector<std::vector<float>> weights;
  };
  void write_steps();

  const Plan& plan_;
  Trainer& trainer_;
  std::vector<int64_t> layers_;  // that are recorded
  RoutingWriter writer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Step> waiting_;
  bool ending_ = false;
  std::string error_;
  std::thread thread_;
};

// The layers of a plan's model whose routing is recorded: those with experts, MTP modules' last.
std::vector<int64_t> routed_layers(const Architecture& a);

}  // namespace rehearse
