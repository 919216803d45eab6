#pragma once
// Communication as ops enqueue it: arrays on a lane, no host wait. A call takes its place behind
// what its op has enqueued before; its results are for what the op enqueues behind it. All members
// of a group make the group's calls in the same order, with the same keys and types.
//
// Control between hosts, and between steps, is the Communicator's.

#include <memory>

#include "plan/routing/placement.h"
#include "runtime/communicators/communicator.h"
#include "runtime/memory/tensor.h"

namespace rehearse {

// Where the tokens of one layer and micro-batch went: made by dispatch, kept for the ways back.
class Routes {
 public:
  virtual ~Routes() = default;
};

// One all-to-all op: the group, who calls, and the key of its two phases.
struct ExchangeOp {
  const ExpertGroup& group;
  BufferPool& pool;       // of the rank
  uint64_t key = 0;       // key and key + 1 are used
  const Ready& ready;     // called when the first messages are there
  Array overflowed = {};  // [1], INT64: grows by the tokens that found no room, where there is less
};

// What came: n tokens that have an expert here, in arrays with room for as many or more.
struct Arrived {
  Tensor x;        // [n, width], of the type that was sent
  Tensor slots;    // [n, active], INT32, of this rank, from 0; negative: other ranks', or no token
  Tensor weights;  // [n, active], FP32
};

class LaneCommunicator {
 public:
  virtual ~LaneCommunicator() = default;

  // As the Communicator's of the same names.
  virtual void send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) = 0;
  virtual void recv(
      int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) = 0;
  virtual void reduce_scatter(const Collective& c,
                              int64_t rank,
                              const Array& data,
                              const Ready& ready) = 0;
  virtual void all_gather(const Collective& c,
                          int64_t rank,
                          const Array& data,
                          const Ready& ready) = 0;
  virtual void all_reduce(const Collective& c,
                          int64_t rank,
                          const Array& data,
                          const Ready& ready) = 0;
  // Values of FP64 or INT64 become their sums over the members, in their order.
  virtual void sum(const Collective& c, int64_t rank, const Array& values, const Ready& ready) = 0;

  // Tokens to the ranks that hold their experts. x: [tokens, width]; slots: [tokens, active] of the
  // group, INT32, which are experts where these stand in order; weights: [tokens, active].
  virtual Arrived dispatch(const ExchangeOp& call,
                           const ConstArray& x,
                           const ConstArray& slots,
                           const ConstArray& weights,
                           std::unique_ptr<Routes>& routes) = 0;
  // More of the same tokens. x: [tokens, width] -> [n, width], as dispatch's came.
  virtual Tensor spread(const ExchangeOp& call, const Routes& routes, const ConstArray& x) = 0;
  // Back. partial: [n, width], FP32 -> [tokens, width], FP32, the sum over the ranks a token went
  // to. type: of what travels, but for the last `exact` columns.
  virtual Tensor reduce(const ExchangeOp& call,
                        const Routes& routes,
                        const ConstArray& partial,
                        DType type,
                        int64_t exact) = 0;
};

}  // namespace rehearse
