#pragma once
// The all-to-all of expert parallelism: tokens to the ranks that hold their experts, and sums back.
//
// A token goes once to each node that holds one of its experts, to the rank of the sender's in-node
// position, and from there to the ranks of that node (report, section 3.2.2). dispatch makes the
// routes of one layer and micro-batch; spread sends more along them (the gradient of combine);
// reduce comes back (combine, and the gradient of dispatch), summing first within nodes, then
// across them, in the order of ranks. Values travel in the type they are kept in, a token's
// weights, their gradients and its choices exactly; sums are made in FP32 and rounded where they
// travel on.

#include <span>
#include <vector>

#include "plan/routing/placement.h"
#include "runtime/communicators/communicator.h"
#include "runtime/tensor.h"

namespace rehearse {

// One all-to-all op: the group, who calls, and the key of its two phases.
struct ExchangeCall {
  const ExpertGroup& group;
  Communicator& communicator;
  BufferPool& pool;
  uint64_t key = 0;  // key and key + 1 are used
  Ready ready;       // called when the first messages are there
};

class Exchange {
 public:
  // What arrived: n tokens that have an expert here.
  struct Arrived {
    Tensor x;                    // [n, width], of the type that was sent
    std::vector<int32_t> slots;  // [n, active] of this rank, from 0; negative: other ranks'
    Tensor weights;              // [n, active]
  };

  // x: [tokens, width]; chosen: [tokens, active] slots of the group, which are experts where these
  // stand in order; weights: [tokens, active].
  Arrived dispatch(const ExchangeCall& call,
                   const Tensor& x,
                   std::span<const int32_t> chosen,
                   const Tensor& weights);
  // x: [tokens, width] -> [n, width], in the order that dispatch's tokens arrived.
  Tensor spread(const ExchangeCall& call, const Tensor& x) const;
  // partial: [n, width], FP32 -> [tokens, width], FP32, the sum over the ranks a token went to.
  // type: of what travels, but for the last `exact` columns.
  Tensor reduce(const ExchangeCall& call,
                const Tensor& partial,
                DType type,
                int64_t exact = 0) const;

 private:
  using Rows = std::vector<int32_t>;

  int64_t tokens_ = 0;
  std::vector<Rows> to_node_;  // [node]: my tokens that go there
  // [source node][position in my node]: which rows of that node's message go to that rank.
  std::vector<std::vector<Rows>> forward_;
  std::vector<int64_t> from_node_;      // [source node]: rows of its message
  std::vector<int64_t> from_position_;  // [position]: rows that came to me from that rank
};

}  // namespace rehearse
