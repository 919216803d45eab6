#pragma once
// The all-to-all of expert parallelism: tokens to the ranks that hold their experts, and sums back.
//
// A token goes once to each node that holds one of its experts, to the rank of the sender's in-node
// position, and from there to the ranks of that node (report, section 3.2.2). dispatch makes the
// routes of one layer and micro-batch; spread sends more along them (the gradient of combine);
// reduce comes back (combine, and the gradient of dispatch), summing first within nodes, then
// across them, in the order of ranks. Values travel in the type they are given in, of scaled types
// with their scales; a token's weights, their gradients and its choices exactly. Sums are made in
// FP32 and rounded where they travel on.

#include <vector>

#include "runtime/communicators/lanes.h"

namespace rehearse {

class Exchange : public Routes {
 public:
  // Must outlive it.
  explicit Exchange(Communicator& communicator) : communicator_(communicator) {}

  // As LaneCommunicator's; done when they return.
  Arrived dispatch(const ExchangeOp& call,
                   const ConstArray& x,
                   const ConstArray& slots,
                   const ConstArray& weights);
  Tensor spread(const ExchangeOp& call, const ConstArray& x) const;
  Tensor reduce(const ExchangeOp& call, const ConstArray& partial, DType type, int64_t exact) const;

 private:
  using RowList = std::vector<int32_t>;
  std::vector<Message> across(const ExchangeOp& call,
                              std::vector<Message> outgoing,
                              const Ready& ready) const;
  std::vector<Message> within(const ExchangeOp& call,
                              std::vector<Message> outgoing,
                              const Ready& ready) const;

  Communicator& communicator_;
  int64_t tokens_ = 0;
  std::vector<RowList> to_node_;  // [node]: my tokens that go there
  // [source node][position in my node]: which rows of that node's message go to that rank.
  std::vector<std::vector<RowList>> forward_;
  std::vector<int64_t> from_node_;      // [source node]: rows of its message
  std::vector<int64_t> from_position_;  // [position]: rows that came to me from that rank
};

}  // namespace rehearse
