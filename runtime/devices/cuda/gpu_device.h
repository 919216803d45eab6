#pragma once
// A card that one rank is trained on: one thread enqueues, one stream runs.

#include <algorithm>

#include "runtime/devices/cuda/gpu_compute.h"
#include "runtime/devices/device.h"

namespace rehearse {

// Of a rank by itself sums are what they are, and there is nobody to send to.
class OneRankLanes : public LaneCommunicator {
 public:
  void send(int64_t, int64_t, uint64_t, const ConstArray&) override { nobody(); }
  void recv(int64_t, int64_t, uint64_t, const Array&, const Ready&) override { nobody(); }
  void reduce_scatter(const Collective& c, int64_t, const Array&, const Ready& ready) override {
    alone(c, ready);
  }
  void all_gather(const Collective& c, int64_t, const Array&, const Ready& ready) override {
    alone(c, ready);
  }
  void all_reduce(const Collective& c, int64_t, const Array&, const Ready& ready) override {
    alone(c, ready);
  }
  void sum(const Collective& c, int64_t, const Array&, const Ready& ready) override {
    alone(c, ready);
  }
  Arrived dispatch(const ExchangeOp&,
                   const ConstArray&,
                   const ConstArray&,
                   const ConstArray&,
                   std::unique_ptr<Routes>&) override {
    nobody();
    return {};
  }
  Tensor spread(const ExchangeOp&, const Routes&, const ConstArray&) override {
    nobody();
    return {};
  }
  Tensor reduce(const ExchangeOp&, const Routes&, const ConstArray&, DType, int64_t) override {
    nobody();
    return {};
  }

 private:
  static void nobody() { CHECK(false) << "a message of a rank by itself"; }
  static void alone(const Collective& c, const Ready& ready) {
    CHECK(c.members.size() == 1) << c.members.size() << " ranks on a card of one";
    ready();
  }
};

class GpuDevice : public TrainingDevice {
 public:
  // The communicator must outlive it. rope: rotations of the plan's positions. room: for experts'
  // rows, at first, of a micro-batch's choices.
  GpuDevice(const Plan& plan,
            Communicator& communicator,
            std::unique_ptr<Gpu> gpu,
            const kernels::RopeTable& rope,
            double room = 1)
      : communicator_(communicator),
        room_(room),
        gpu_(std::move(gpu)),
        rope_(*gpu_, rope),
        pool_(gpu_->memory()),
        compute_(pool_, *gpu_, rope_, room_) {
    CHECK(plan.layout.world() == 1) << plan.layout.world() << " ranks on a card of one";
  }

  BufferPool& pool(int64_t) override { return pool_; }
  const Compute& compute(int64_t) override { return compute_; }
  LaneCommunicator& lanes() override { return lanes_; }
  Enqueuing enqueuing() const override { return Enqueuing::kOneThread; }
  void end_step(Timeline& timeline) override {
    gpu_->finish();
    TrainingDevice::end_step(timeline);
  }
  void make_room() override {
    CHECK(room_ < 1) << "there is room for all choices";
    room_ = std::min(1.0, 2 * room_);
  }
  double room() const { return room_; }
  void abort() override { communicator_.abort(); }

 private:
  Communicator& communicator_;
  double room_;
  std::unique_ptr<Gpu> gpu_;
  GpuRopeTable rope_;
  BufferPool pool_;
  GpuCompute compute_;
  OneRankLanes lanes_;
};

}  // namespace rehearse
