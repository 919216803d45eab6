#pragma once
// Communication of ranks that share a card: peers' arrays are read where they lie. Sums are in the
// order of members, so that their numbers are those of cores.

#include <deque>
#include <map>
#include <tuple>

#include "plan/program/card_room.h"
#include "runtime/communicators/lanes.h"
#include "runtime/devices/cuda/group_work.h"

namespace rehearse {

class GpuLanes : public LaneCommunicator {
 public:
  // Of a rank: where it takes buffers, what came to it from every rank (bytes, [ranks], INT64; of
  // exchanges of tokens), and for how many tokens there is room.
  struct Rank {
    BufferPool& pool;
    Array traffic;
    const CardRoom& room;
  };
  // All must outlive it.
  GpuLanes(HeldLanes& gpu, LaneOrder& order, GroupWork& groups, std::deque<Rank>& ranks)
      : gpu_(gpu), order_(order), groups_(groups), ranks_(ranks) {}

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

  // Messages that were sent and never taken, since the last call: a step leaves none.
  size_t untaken() const { return under_way_.size(); }

 private:
  void together(const Collective& c, int64_t rank, std::unique_ptr<GroupPart> part);
  void together(const ExchangeOp& call, std::unique_ptr<GroupPart> part);

  HeldLanes& gpu_;
  LaneOrder& order_;
  GroupWork& groups_;
  std::deque<Rank>& ranks_;
  std::map<std::tuple<int64_t, int64_t, uint64_t>, std::deque<Tensor>> under_way_;
};

}  // namespace rehearse
