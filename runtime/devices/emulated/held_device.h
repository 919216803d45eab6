#pragma once
// A device whose ops take the time that they would on an emulated cluster: another one computes,
// and then the op's lane is held until its time is over.

#include <array>
#include <atomic>
#include <chrono>
#include <vector>

#include "runtime/devices/device.h"

namespace rehearse {

class HeldDevice : public TrainingDevice {
 public:
  // inner: one whose ops are done when they end, with a thread per lane.
  HeldDevice(const Plan& plan, std::unique_ptr<TrainingDevice> inner);

  BufferPool& pool(int64_t rank) override { return inner_->pool(rank); }
  const Compute& compute(int64_t rank) override { return inner_->compute(rank); }
  LaneCommunicator& lanes() override { return inner_->lanes(); }
  void abort() override { inner_->abort(); }
  void make_room() override { inner_->make_room(); }
  void begin(const OpAt& at, int64_t rank) override;
  void end(const OpAt& at, int64_t rank, const std::function<MemberLoad()>& load) override;
  void begin_step() override;
  Overruns overruns() const override;

 private:
  using Clock = std::chrono::steady_clock;

  const Plan& plan_;
  std::unique_ptr<TrainingDevice> inner_;
  OpWork op_work_;
  std::vector<std::array<Clock::time_point, kLanes>> begins_;  // by rank, of the op on each lane
  // Since the step's beginning; times in picoseconds.
  std::atomic<int64_t> late_ = 0, of_ = 0, late_time_ = 0, held_ = 0;
};

}  // namespace rehearse
