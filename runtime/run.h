#pragma once
// run: executes a Program on a Device, one worker thread per lane of every local rank, and times
// every op. The other ranks, if any, are run by other processes at the same time.
//
// A worker takes its lane's ops in order and waits until the dependencies of the next one that
// stand on its own rank are done; messages and collectives wait inside the Device's communicator.

#include <functional>
#include <memory>

#include "plan/program/timeline.h"

namespace rehearse {

// Does the work of ops. Ops of different lanes and ranks come from different threads at once.
class Device {
 public:
  virtual ~Device() = default;
  // Runs one op of data rank `data_rank` to its end. Calls `ready` when it has waited for other
  // ranks and starts to work (ops that wait for nobody need not).
  virtual void run_op(const Op& op, int32_t data_rank, const std::function<void()>& ready) = 0;
  // Makes ops that wait for other ranks throw, since one has failed.
  virtual void abort() = 0;
};

// Longer than any op of a plan that somebody would run on CPU cores, and short enough to wait for.
constexpr Duration kDefaultHangTimeout = Duration::nanoseconds(60'000'000'000);

struct RunOptions {
  std::vector<Place> local;                    // the ranks of this process; empty: all
  Duration no_progress = kDefaultHangTimeout;  // no op ends for so long: the step has failed
};

// The workers of one Program, kept from step to step.
class Workers {
 public:
  Workers(const Program& program, Device& device, RunOptions options = {});
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Runs one step; the timeline has the spans of local ranks, from when this call began, and zeros
  // for the others. Throws what the first op to fail threw (RunAborted when that was another
  // process's), or ScheduleError when nothing moves: it names, for every lane of every local rank,
  // the op it is in and whom that waits for. No step can be run after either.
  Timeline run_step();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One step with workers of its own.
Timeline run(const Program& program, Device& device);

}  // namespace rehearse
