#pragma once
// A card on which ranks are trained: one thread enqueues all of them, every lane of a rank is a
// lane of the card's, and what depends on another lane waits for its event.

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "runtime/devices/cuda/gpu_compute.h"
#include "runtime/devices/cuda/gpu_lanes.h"
#include "runtime/devices/device.h"

namespace rehearse {

struct GpuOptions {
  std::optional<double> room;  // for experts' rows at first (CardRoom::share)
  // Of the card, at most: connections of the hardware are 32 (CUDA_DEVICE_MAX_CONNECTIONS), and
  // streams that share one wait for each other unasked. Some are left for others.
  int32_t streams = 28;
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

  // Every lane's stream, of at most so many: where there are fewer than lanes, messages share one
  // per rank, then ranks share.
  static std::vector<int32_t> streams_of(const Plan& plan, int32_t most);
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
  bool has_begun(OpId id) override;
  int64_t ended() override;
  void abort() override;
  void make_room() override;

  double room() const { return room_.share; }
  // Bytes of exchanges of tokens that came to `to` from `from` in the last step.
  int64_t traffic(int64_t from, int64_t to) const;

 private:
  struct Rank;
  class Order;
  static int32_t lane_of(const OpAt& at, int64_t rank);
  void on(const OpAt& at, int64_t rank);

  Communicator& communicator_;
  const int64_t most_ranks_;  // that send one rank tokens
  CardRoom room_;
  HeldLanes gpu_;
  std::unique_ptr<Order> order_;
  GpuRopeTable rope_;
  std::deque<Rank> ranks_;
  std::deque<GpuLanes::Rank> lane_ranks_;
  GroupWork groups_;
  GpuLanes lanes_;
  std::vector<OpId> current_;        // op by lane
  std::unordered_set<OpId> waited_;  // ops that told when they had waited for their peers
  std::unordered_map<OpId, LaneOrder::Snapshot> ends_;  // of this step's ops
  std::vector<OpId> spans_;                             // its ops, in order
  std::mutex mutex_;                                    // of what the watch reads: spans_
  std::atomic<bool> aborted_ = false;
};

}  // namespace rehearse
