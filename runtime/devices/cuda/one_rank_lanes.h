#pragma once
// Communication of a rank by itself: sums are what they are, and there is nobody to send to.

#include "base/errors.h"
#include "runtime/communicators/lanes.h"

namespace rehearse {

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

}  // namespace rehearse
