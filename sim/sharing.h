#pragma once
// The one mechanism for contention: activities consume resources, shared max-min fairly.
//
// Every activity i progresses at a rate x_i <= bound_i and takes weight_ir * x_i of resource r. The
// rates are the weighted max-min allocation (Bertsekas & Gallager, Data Networks, section 6.5.2):
// all rates rise together; when a resource is exhausted its activities stop rising, the others go
// on. Activities that share no resource, directly or through others, do not touch each other: only
// the connected part that a change touches is solved again.

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/units.h"
#include "sim/event_queue.h"

namespace rehearse {

using ResourceId = int32_t;
using ActivityId = int32_t;

struct Use {
  ResourceId resource = 0;
  double weight = 1;
};

class Sharing {
 public:
  // capacity: units per picosecond, above 0; activities' weights say what the unit is.
  ResourceId add_resource(double capacity);

  // Starts an activity at `now` with `work` units to do at `bound` units per picosecond at most.
  // REQUIRES: work >= 0, bound > 0, positive weights, no resource twice. `payload` comes back when
  // it ends. Rates are settled by the next call of update().
  ActivityId start(
      Duration now, double work, double bound, std::span<const Use> uses, uint64_t payload);

  // Solves what changed since the last call and tells `queue` the new ends.
  void update(Duration now, EventQueue& queue);

  // Whether `event`, a payload popped from the queue, is the end of an activity at its present
  // rate. If so the activity is removed and its payload returned in `payload`.
  bool finish(uint64_t event, uint64_t& payload);

  double rate(ActivityId id) const { return activities_[static_cast<size_t>(id)].rate; }

 private:
  struct Activity {
    double remaining = 0;
    double bound = 0;
    double rate = 0;
    double solved = 0;    // rate being worked out
    int64_t updated = 0;  // picoseconds: when `remaining` held
    uint64_t payload = 0;
    uint32_t generation = 0;  // ends of older generations are stale
    uint32_t visit = 0;
    bool fixed = false;
    bool alive = false;
    std::vector<Use> uses;
  };
  struct Resource {
    double capacity = 0;
    double left = 0;
    double weight = 0;   // of activities whose rate is still rising
    int32_t rising = 0;  // how many those are
    uint32_t visit = 0;
    bool dirty = false;
    std::vector<ActivityId> users;
  };

  void mark(ResourceId r);
  void collect(ResourceId from);
  void solve();
  void schedule(Activity& a, ActivityId id, int64_t now, EventQueue& queue);

  std::vector<Activity> activities_;
  std::vector<ActivityId> free_;
  std::vector<Resource> resources_;
  std::vector<ResourceId> dirty_;
  std::vector<ActivityId> fresh_;  // started without any resource since the last update
  std::vector<ActivityId> part_;   // the connected part at hand
  std::vector<ResourceId> part_resources_;
  uint32_t visit_ = 0;
};

}  // namespace rehearse
