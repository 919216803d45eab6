#pragma once
// Lanes that are threads of the host, over any Communicator: a call is done when it returns.

#include "runtime/communicators/lanes.h"

namespace rehearse {

class HostLanes : public LaneCommunicator {
 public:
  // Must outlive it.
  explicit HostLanes(Communicator& communicator) : communicator_(communicator) {}

  void send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) override;
  void recv(int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) override;
  void reduce_scatter(const Collective& c,
                      int64_t rank,
                      const Array& data,
                      const Ready& ready) override;
  void all_gather(const Collective& c,
                  int64_t rank,
                  const Array& data,
                  const Ready& ready) override;
  void all_reduce(const Collective& c,
                  int64_t rank,
                  const Array& data,
                  const Ready& ready) override;
  void sum(const Collective& c, int64_t rank, const Array& values, const Ready& ready) override;
  Arrived dispatch(const ExchangeOp& call,
                   const ConstArray& x,
                   const ConstArray& slots,
                   const ConstArray& weights,
                   std::unique_ptr<Routes>& routes) override;
  Tensor spread(const ExchangeOp& call, const Routes& routes, const ConstArray& x) override;
  Tensor reduce(const ExchangeOp& call,
                const Routes& routes,
                const ConstArray& partial,
                DType type,
                int64_t exact) override;

 private:
  Communicator& communicator_;
};

}  // namespace rehearse
