#pragma once
// What members of a group do together on a card that they share: each its part on its own lane, in
// stages, and every wait for another member's part is an event. No kernel waits for another's.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "runtime/devices/cuda/gpu/held_lanes.h"
#include "runtime/memory/lane_order.h"

namespace rehearse {

// A member's part of one such work, with what it holds until all is asked for.
class GroupPart {
 public:
  virtual ~GroupPart() = default;
  virtual int stages() const = 0;
  // Asks the card for the member's work of a stage, on its lane: reads what others have written up
  // to the stage before, writes what is its own. all: the members' parts, in their order.
  virtual void stage(int s, Gpu& card, std::span<const std::unique_ptr<GroupPart>> all) = 0;
  // Whether that stage, or what follows behind the last one, is behind another member's stage
  // before.
  virtual bool waits_for(int /*s*/, size_t /*member*/) const { return true; }
};

class GroupWork {
 public:
  // ready: told of a lane when it has waited for its peers the first time, the card being on its
  // stream. Both must outlive it.
  GroupWork(HeldLanes& gpu, LaneOrder& order, std::function<void(Gpu& card, int32_t lane)> ready)
      : gpu_(gpu), order_(order), ready_(std::move(ready)) {}

  // The current lane's part, as member `index` of `size` of the group's work `key`, whose first
  // rank tells groups apart. What the lane is asked for from now on is behind it. All members call
  // it before any of them is waited for.
  void join(
      size_t size, size_t index, int64_t first_rank, uint64_t key, std::unique_ptr<GroupPart> part);

 private:
  struct Member {
    int32_t lane = -1;
    std::string name;
    LaneOrder::Snapshot there;  // what its lane was behind when it came
  };
  struct Meeting {
    std::vector<Member> members;
    std::vector<std::unique_ptr<GroupPart>> parts;
    size_t came = 0;
  };
  void all_have_come(Meeting& m);
  void wait_for_each_other(const Meeting& m, int stage);

  HeldLanes& gpu_;
  LaneOrder& order_;
  std::function<void(Gpu&, int32_t)> ready_;
  std::map<std::pair<int64_t, uint64_t>, Meeting> meetings_;
  int64_t next_event_ = int64_t{1} << 48;  // above those of ops
};

}  // namespace rehearse
