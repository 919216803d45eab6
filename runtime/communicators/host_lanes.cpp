#include "runtime/communicators/host_lanes.h"

#include "runtime/communicators/exchange.h"

namespace rehearse {

void HostLanes::send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) {
  communicator_.send(from, to, tag, data);
}
void HostLanes::recv(
    int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) {
  communicator_.recv(from, to, tag, data, ready);
}
void HostLanes::reduce_scatter(const Collective& c,
                               int64_t rank,
                               const Array& data,
                               const Ready& ready) {
  communicator_.reduce_scatter(c, rank, data, ready);
}
void HostLanes::all_gather(const Collective& c,
                           int64_t rank,
                           const Array& data,
                           const Ready& ready) {
  communicator_.all_gather(c, rank, data, ready);
}
void HostLanes::all_reduce(const Collective& c,
                           int64_t rank,
                           const Array& data,
                           const Ready& ready) {
  communicator_.all_reduce(c, rank, data, ready);
}

void HostLanes::sum(const Collective& c, int64_t rank, const Array& values, const Ready& ready) {
  const auto count = static_cast<size_t>(values.extent.size());
  if (values.extent.type == DType::kFp64) {
    communicator_.sum(c, rank, std::span(values.fp64(), count), ready);
  } else {
    communicator_.sum(c, rank, std::span(values.int64(), count), ready);
  }
}

Arrived HostLanes::dispatch(const ExchangeOp& call,
                            const ConstArray& x,
                            const ConstArray& slots,
                            const ConstArray& weights,
                            std::unique_ptr<Routes>& routes) {
  auto exchange = std::make_unique<Exchange>(communicator_);
  Arrived arrived = exchange->dispatch(call, x, slots, weights);
  routes = std::move(exchange);
  return arrived;
}

Tensor HostLanes::spread(const ExchangeOp& call, const Routes& routes, const ConstArray& x) {
  return dynamic_cast<const Exchange&>(routes).spread(call, x);
}

Tensor HostLanes::reduce(const ExchangeOp& call,
                         const Routes& routes,
                         const ConstArray& partial,
                         DType type,
                         int64_t exact) {
  return dynamic_cast<const Exchange&>(routes).reduce(call, partial, type, exact);
}

}  // namespace rehearse
