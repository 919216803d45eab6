#include "runtime/devices/emulated/held_device.h"

#include "runtime/precise_sleep.h"

namespace rehearse {

HeldDevice::HeldDevice(const Plan& plan, std::unique_ptr<TrainingDevice> inner)
    : plan_(plan),
      inner_(std::move(inner)),
      op_work_(plan),
      begins_(static_cast<size_t>(plan.layout.world())) {
  CHECK(inner_->enqueuing() == Enqueuing::kThreadPerLane)
      << "an op's end is not known when it is asked for";
}

void HeldDevice::begin_step() {
  inner_->begin_step();
  for (std::atomic<int64_t>* n : {&late_, &of_, &late_time_, &held_}) *n = 0;
}

void HeldDevice::begin(const OpAt& at, int64_t rank) {
  begins_[static_cast<size_t>(rank)][static_cast<size_t>(at.op.lane)] = Clock::now();
  inner_->begin(at, rank);
}

// Sleeps until the op has taken its time on the emulated device.
void HeldDevice::end(const OpAt& at, int64_t rank, const std::function<MemberLoad()>& load) {
  inner_->end(at, rank, load);
  // Messages take their time on the links; everything else holds its lane.
  const bool local =
      at.op.lane == Lane::kCompute || (is_all_to_all(at.op.kind) && at.op.group == Group::kNone);
  if (!local) return;
  const Duration target = roofline(plan_, op_work_.calls(at.op, load()).all());
  const auto end = begins_[static_cast<size_t>(rank)][static_cast<size_t>(at.op.lane)] +
                   std::chrono::nanoseconds(target.picoseconds() / 1000);
  ++of_;
  held_ += target.picoseconds();
  const auto late = Clock::now() - end;
  if (late > late.zero()) {
    ++late_;
    late_time_ += std::chrono::duration_cast<std::chrono::nanoseconds>(late).count() * 1000;
    return;
  }
  sleep_until_exactly(end);
}

Overruns HeldDevice::overruns() const {
  return {.ops = late_,
          .of = of_,
          .time = Duration::picoseconds(late_time_),
          .held = Duration::picoseconds(held_)};
}

}  // namespace rehearse
