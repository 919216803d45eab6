#pragma once
// A card on which ranks are trained: one thread enqueues all of them, every lane of a rank is a
// lane of the card's, and what depends on another lane waits for its event.

#include <atomic>
#include <deque>
#include <memory>
#include <unordered_map>

#include "runtime/devices/cuda/gpu_compute.h"
#include "runtime/devices/cuda/one_rank_lanes.h"
#include "runtime/devices/device.h"

namespace rehearse {

struct GpuOptions {
  double room = 1;          // for experts' rows at first, of a micro-batch's choices
  bool early_free = false;  // for tests: buffers that are given back wait for nobody
};

class GpuDevice : public TrainingDevice {
 public:
  // The communicator must outlive it. rope: rotations of the plan's positions.
  GpuDevice(const Plan& plan,
            Communicator& communicator,
            std::unique_ptr<Gpu> gpu,
            const kernels::RopeTable& rope,
            GpuOptions options = {});
  ~GpuDevice() override;

  // How many lanes its card must have.
  static int32_t lanes_of(const Plan& plan) {
    return static_cast<int32_t>(plan.layout.world() * kLanes);
  }

  BufferPool& pool(int64_t rank) override;
  const Compute& compute(int64_t rank) override;
  LaneCommunicator& lanes() override { return lanes_; }
  Enqueuing enqueuing() const override { return Enqueuing::kOneThread; }
  void begin_step() override;
  void wait(const OpAt& at, int64_t rank, OpId dependency) override;
  void begin(const OpAt& at, int64_t rank) override;
  void end(const OpAt& at, int64_t rank, const std::function<MemberLoad()>& load) override;
  void end_step(Timeline& timeline) override;
  std::vector<OpId> under_way() override;
  int64_t ended() override;
  void abort() override;
  void make_room() override;

  double room() const { return room_; }
  Gpu& gpu() { return *gpu_; }

 private:
  struct Rank;
  class Order;
  static int32_t lane_of(const OpAt& at, int64_t rank);
  void on(const OpAt& at, int64_t rank);

  Communicator& communicator_;
  double room_;
  std::unique_ptr<Gpu> gpu_;
  std::unique_ptr<Order> order_;
  GpuRopeTable rope_;
  std::deque<Rank> ranks_;
  OneRankLanes lanes_;
  std::unordered_map<OpId, LaneOrder::Snapshot> ends_;  // of this step's ops
  std::vector<OpId> spans_;                             // its ops, in order
  std::mutex mutex_;                                    // of what the watch reads: spans_
  std::atomic<bool> aborted_ = false;
};

}  // namespace rehearse
