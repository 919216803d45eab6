#pragma once
// The device that trains: where a rank's arrays lie, what computes on them, and in which order.
//
// A device is a folder of its own here; make_device.cpp chooses it from the plan's cluster. What
// ops do it does not know (runtime/step/): they ask it for operations between begin and end.

#include <functional>
#include <memory>

#include "plan/capabilities.h"
#include "plan/program/op_work.h"
#include "runtime/communicators/lanes.h"
#include "runtime/compute/compute.h"
#include "runtime/run.h"
#include "runtime/step_results.h"

namespace rehearse {

class TrainingDevice {
 public:
  virtual ~TrainingDevice() = default;

  // Of a local rank. Operations are for the op that has begun on the caller's thread, and outside
  // of ops done when they return.
  virtual BufferPool& pool(int64_t rank) = 0;
  virtual const Compute& compute(int64_t rank) = 0;
  virtual LaneCommunicator& lanes() = 0;

  // As Device's (runtime/run.h): who enqueues, what an op waits for, the step's end, how far it is.
  virtual Enqueuing enqueuing() const { return Enqueuing::kThreadPerLane; }
  virtual void wait(const OpAt& at, int64_t rank, OpId dependency);
  virtual void end_step(Timeline& timeline);
  virtual std::vector<OpId> under_way() { return {}; }
  virtual bool has_begun(OpId /*id*/) { return false; }
  virtual int64_t ended() { return 0; }
  virtual void abort() {}

  // What is enqueued between them is the op's, of a rank. load: its rows of experts, once it has
  // run.
  virtual void begin(const OpAt& at, int64_t rank);
  virtual void end(const OpAt& at, int64_t rank, const std::function<MemberLoad()>& load);

  // Before a step.
  virtual void begin_step() {}
  // After one that found no room for rows of experts: more of it. Throws InternalError of a device
  // whose arrays are as large as what comes.
  virtual void make_room();
  virtual Overruns overruns() const { return {}; }
};

// The device for the communicator's local ranks. Both must outlive it. Throws InputError where a
// card is asked for and there is none.
std::unique_ptr<TrainingDevice> make_device(const Plan& plan,
                                            Communicator& communicator,
                                            TrainOn on);
// As the plan's cluster has it.
inline std::unique_ptr<TrainingDevice> device_of_plan(const Plan& plan,
                                                      Communicator& communicator) {
  return make_device(plan, communicator, trained_on(plan));
}

}  // namespace rehearse
