#pragma once
// A device that does nothing and takes no time: what a step costs then is the runtime's own.

#include <deque>

#include "runtime/devices/device.h"
#include "runtime/devices/null/null_compute.h"

namespace rehearse {

// Nothing travels; what comes has room for all that could.
class NullLanes : public LaneCommunicator {
 public:
  void send(int64_t, int64_t, uint64_t, const ConstArray&) override {}
  void recv(int64_t, int64_t, uint64_t, const Array&, const Ready&) override {}
  void reduce_scatter(const Collective&, int64_t, const Array&, const Ready&) override {}
  void all_gather(const Collective&, int64_t, const Array&, const Ready&) override {}
  void all_reduce(const Collective&, int64_t, const Array&, const Ready&) override {}
  void sum(const Collective&, int64_t, const Array&, const Ready&) override {}
  Arrived dispatch(const ExchangeOp& op,
                   const ConstArray& x,
                   const ConstArray& slots,
                   const ConstArray&,
                   std::unique_ptr<Routes>& routes) override {
    routes = std::make_unique<Tokens>(x.extent.rows);
    const int64_t rows = most(op, x.extent.rows);
    return {{op.pool, rows, x.extent.columns, x.extent.type},
            {op.pool, rows, slots.extent.columns, DType::kInt32},
            {op.pool, rows, slots.extent.columns}};
  }
  Tensor spread(const ExchangeOp& op, const Routes&, const ConstArray& x) override {
    return {op.pool, most(op, x.extent.rows), x.extent.columns, x.extent.type};
  }
  Tensor reduce(const ExchangeOp& op,
                const Routes& routes,
                const ConstArray& partial,
                DType,
                int64_t) override {
    return {op.pool, dynamic_cast<const Tokens&>(routes).count, partial.extent.columns};
  }

 protected:
  struct Tokens : Routes {
    explicit Tokens(int64_t n) : count(n) {}
    int64_t count = 0;  // that were sent
  };
  static int64_t most(const ExchangeOp& op, int64_t tokens) {
    return tokens * std::ssize(op.group.ranks);
  }
};

class NullDevice : public TrainingDevice {
 public:
  NullDevice(const Plan& plan, Communicator& communicator) {
    for (int64_t r = 0; r < plan.layout.world(); ++r) ranks_.emplace_back();
    communicator_ = &communicator;
  }
  BufferPool& pool(int64_t rank) override { return ranks_[static_cast<size_t>(rank)].pool; }
  const Compute& compute(int64_t rank) override {
    return ranks_[static_cast<size_t>(rank)].compute;
  }
  LaneCommunicator& lanes() override { return lanes_; }
  Enqueuing enqueuing() const override { return Enqueuing::kOneThread; }
  void abort() override { communicator_->abort(); }

 private:
  struct Rank {
    BufferPool pool;
    NullCompute compute{pool};
  };
  std::deque<Rank> ranks_;
  NullLanes lanes_;
  Communicator* communicator_ = nullptr;
};

}  // namespace rehearse
