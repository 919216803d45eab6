#pragma once
// run: executes a Program on a Device, one worker thread per lane of every local rank, and times
// every op. The other ranks, if any, are run by other processes at the same time.
//
// A worker takes its lane's ops in order and waits until the dependencies of the next one that
// stand on its own rank are done; messages and collectives wait inside the Device's communicator.
// For a device that wants one thread there is one worker, which enqueues all.

#include <functional>
#include <memory>

#include "plan/program/timeline.h"

namespace rehearse {

// Who asks a device for the work of ops.
enum class Enqueuing : uint8_t {
  // A thread per lane of every rank, which waits until what an op depends on has ended: an op has
  // ended when enqueue returns.
  kThreadPerLane,
  // One thread for all local ranks, in an order in which nothing comes before what it waits for;
  // the ops of a collective come one after the other with no other between. Work is done later: an
  // op waits where wait is called for it, and has ended when end_step returns.
  kOneThread,
};

// An op of a local rank.
struct OpAt {
  const Op& op;
  int32_t data_rank = 0;
  OpId id = 0;  // over all replicas, of the program that runs
};

// Does the work of ops.
class Device {
 public:
  virtual ~Device() = default;
  virtual Enqueuing enqueuing() const { return Enqueuing::kThreadPerLane; }
  // Calls `ready` when it has waited for other ranks and starts to work (ops that wait for nobody
  // need not).
  virtual void enqueue(const OpAt& at, const std::function<void()>& ready) = 0;
  // Before an op is enqueued: it waits for another one of a local rank, which is. One thread only.
  virtual void wait(const OpAt& /*at*/, OpId /*dependency*/) {}
  // When all ops are enqueued: returns when they have ended. Where one thread enqueues, the
  // timeline gets their spans, from the step's beginning.
  virtual void end_step(Timeline& /*timeline*/) {}
  // Where one thread enqueues: ops that have begun and not ended, for hang reports. From any
  // thread.
  virtual std::vector<OpId> under_way() { return {}; }
  virtual bool has_begun(OpId /*id*/) { return false; }
  // How many ops have ended in this step, where enqueue returns before they do; or 0.
  virtual int64_t ended() { return 0; }
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
