#pragma once
// The all-to-all of expert parallelism between ranks of one card, as
// runtime/communicators/exchange.h has it: a token goes once to each node, to the rank of the
// sender's position there, and on to the ranks of that node; sums come back within nodes first. How
// many go where only the card knows.

#include "runtime/communicators/lanes.h"
#include "runtime/devices/cuda/group_work.h"

namespace rehearse {

// Which of a rank's tokens go to which part of a hop.
struct HopMap {
  Tensor rows;          // [parts], INT32: how many to each
  Tensor token_of_row;  // by part, each padded to 128
  Tensor row_of;        // [tokens, parts]
};

struct GpuRoutes : Routes {
  // arrivals: room for tokens that come.
  GpuRoutes(const ExchangeOp& call, int64_t tokens, int64_t arrivals);
  int64_t tokens;    // that are sent from here
  int64_t hop;       // room for those that pass here, on their way within the node
  int64_t arrivals;  // room for those that end here
  HopMap across;     // of the tokens by node; empty on a single one
  HopMap within;     // of those that pass by position: of the tokens themselves on a single node
};

// One call of a rank: its buffers are taken and its own maps made at once, its part of the group's
// work is for GroupWork.
class GpuExchange {
 public:
  // traffic: bytes that came to the rank, [ranks], INT64.
  GpuExchange(Gpu& gpu, const ExchangeOp& call, const Array& traffic)
      : gpu_(gpu), call_(call), traffic_(traffic) {}

  std::unique_ptr<GroupPart> dispatch(GpuRoutes& routes,
                                      const ConstArray& x,
                                      const ConstArray& slots,
                                      const ConstArray& weights,
                                      Arrived& arrived);
  std::unique_ptr<GroupPart> spread(const GpuRoutes& routes, const ConstArray& x, Tensor& out);
  struct Sums {
    bool in_bf16 = false;  // how they travel, but for the last `exact` columns
    int64_t exact = 0;
  };
  std::unique_ptr<GroupPart> reduce(const GpuRoutes& routes,
                                    const ConstArray& partial,
                                    const Sums& sums,
                                    Tensor& out);

 private:
  Gpu& gpu_;
  const ExchangeOp& call_;
  Array traffic_;
};

}  // namespace rehearse
