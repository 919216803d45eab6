#pragma once
// The one mechanism for contention: activities consume resources, shared max-min fairly.
//
// Every activity i progresses at a rate x_i <= bound_i and takes weight_ir * x_i of resource r. The
// rates are the weighted max-min allocation (Bertsekas & Gallager, Data Networks, section 6.5.2):
// all rates rise together; when a resource is exhausted its activities stop rising, the others go
// on.
//
// Held incrementally. Every activity is stopped by one resource, its bottleneck, and all activities
// that one resource stops have one rate, the resource's level: so a change of level is one change,
// however many activities it concerns. A resource's level is what the activities stopped elsewhere
// leave, divided by the weight of its own. The levels in use are kept sorted; after a start or an
// end they are worked out again from the lowest that changed, in ascending order, each handing its
// change on to the resources that its activities also use. A resource whose level thereby falls
// below its predecessor's takes over the activities that they share, and changes places with it.
// Levels that ascend prove the allocation: every activity then stands still at a resource that is
// exhausted and in which nobody is faster. Progress is counted per resource too, as the integral of
// its level, so that an activity's end is a fixed mark on that scale. Progress is exact
// (sim/engine/exact.h): what ends when does not depend on how often, or at which of several equally
// short resources, it was looked at.
//
// Activities that share no resource, directly or through others, are of different components, and
// a change touches one. A component that has run empty forgets everything: what follows does not
// depend, not even in the last bit, on what was there before.

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "base/units.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/exact.h"

namespace rehearse {

using ResourceId = int32_t;
using ActivityId = int32_t;

struct Use {
  ResourceId resource = 0;
  double weight = 1;
};

class Sharing {
 public:
  static constexpr double kNoBound = std::numeric_limits<double>::max();

  // capacity: units per picosecond, above 0; activities' weights say what the unit is.
  ResourceId add_resource(double capacity);
  void reserve_resources(size_t count);

  // Starts an activity at `now` with `work` units to do at `bound` units per picosecond at most.
  // REQUIRES: work >= 0, bound > 0, positive weights, no resource twice, a bound or a resource.
  // `payload`, below 2^63, comes back when it ends. Rates are settled by the next update().
  ActivityId start(
      Duration now, double work, double bound, std::span<const Use> uses, uint64_t payload);
  // Something that takes its time and no resource.
  static void wait(Duration now, Duration length, EventQueue& queue, uint64_t payload) {
    queue.push((now + length).picoseconds(), payload);
  }

  // Ends an activity that is under way before its work is done.
  void stop(ActivityId id);

  // Works out what changed since the last call and tells `queue` the new ends.
  void update(Duration now, EventQueue& queue);

  // What ends with `event`, popped from the queue: appends the payloads in the order of start.
  // Nothing when the event is out of date.
  void finish(const EventQueue::Event& event, std::vector<uint64_t>& ended);

  // Is called at the beginning of each update() that may change rates, with its time.
  void before_changes(std::function<void(Duration now)> told) { told_ = std::move(told); }

  // Activities' numbers are used again; which of them one is, by its sequence number.
  uint64_t sequence(ActivityId id) const { return activities_[static_cast<size_t>(id)].sequence; }
  bool running(ActivityId id, uint64_t sequence) const {
    const auto at = static_cast<size_t>(id);
    return at < activities_.size() && activities_[at].bottleneck != kNone &&
           activities_[at].sequence == sequence;
  }
  // Of an activity under way, as of the last update().
  double rate(ActivityId id) const;
  double remaining(ActivityId id, Duration now) const;
  double capacity(ResourceId r) const { return shares_[static_cast<size_t>(r)].capacity; }
  bool idle(ResourceId r) const { return resources_[static_cast<size_t>(r)].users == 0; }

  // Gives back memory that busier times needed.
  void shrink();

 private:
  // An activity in the list of the resource that stops it.
  struct Own {
    Exact mark;  // on the scale of the resource's progress: where it ends
    ActivityId id;
  };
  static constexpr ResourceId kNone = -1;
  static constexpr ResourceId kMany = -2;

  struct Activity {
    uint64_t payload = 0;
    uint64_t sequence = 0;
    ResourceId bottleneck = kNone;
    uint32_t place = 0;  // in its list
    ResourceId bound_resource = kNone;
    uint32_t count = 0;  // of uses
    Use few[2];
    std::unique_ptr<Use[]> many;  // all of them where more than two
  };
  // What a sweep reads of every resource, kept together.
  struct Share {
    double capacity = 0;
    double load = 0;     // taken by activities that other resources stop
    double inverse = 0;  // of its own activities' weight; 0 when there are none
    double level = 0;    // their rate, units per picosecond
  };
  struct Resource {
    double weight = 0;   // of its own activities
    Exact progress = 0;  // integral of the level, until `since`
    Exact first = 0;     // the least mark of its own
    int64_t since = 0;   // picoseconds
    int64_t next = 0;    // when the first of its own ends
    int32_t users = 0;
    int32_t component = kNone;
    int32_t position = kNone;  // in the component's order; kNone: stops nobody
    bool stale = false;        // `first` or `next` must be worked out again
    std::vector<Own> own;
    // Of each of them: the other resource, where it uses just one more, by weight 1; kNone where it
    // uses no other, else kMany. Apart, since a sweep reads nothing else.
    std::vector<ResourceId> others;
    int32_t special = 0;  // of those that are no resource
  };
  struct Component {
    std::vector<ResourceId> order;  // that stop somebody, by ascending level
    std::vector<ResourceId> slack;  // that stop nobody
    size_t size() const { return order.size() + slack.size(); }
    int64_t next = kNever;  // the end that the queue knows of
    uint32_t activities = 0;
    uint32_t from = 0;  // position in `order` from which on levels may be wrong
    uint32_t generation = 0;
    bool dirty = false;
  };
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  static constexpr double kLongest = 4e18;              // picoseconds
  static constexpr uint64_t kOurs = uint64_t{1} << 63;  // events of components
  // Levels nearer than this, relatively, count as equal, and loads as within capacity: rounding
  // must not move activities to and fro.
  static constexpr double kSlack = 1e-10;

  Resource& at(ResourceId r) { return resources_[static_cast<size_t>(r)]; }
  Share& share(ResourceId r) { return shares_[static_cast<size_t>(r)]; }
  std::span<const Use> uses(const Activity& a) const {
    return {a.count <= 2 ? a.few : a.many.get(), a.count};
  }
  double weight_at(const Activity& a, ResourceId r) const;
  int32_t component_of(std::span<const Use> uses);
  int32_t merge(int32_t a, int32_t b);
  void dissolve(int32_t c);
  void touch(Component& c, const Resource& r);
  void enter_order(Component& c, ResourceId r);
  void add_own(ResourceId r, ActivityId activity, Exact mark);
  void remove_own(ResourceId r, uint32_t place);
  void advance(ResourceId r, int64_t now);
  void remove(ActivityId id);
  void take_over(ResourceId from, ResourceId to, int64_t now);
  void set_level(ResourceId id, double level, int64_t now);
  void sweep(Component& c, int64_t now);
  void find_next(Component& c, int64_t now);

  std::vector<Activity> activities_;
  std::vector<ActivityId> free_activities_;
  std::vector<Resource> resources_;
  std::vector<Share> shares_;            // by resource
  std::vector<ResourceId> free_bounds_;  // resources that stood for bounds
  std::vector<Component> components_;
  std::vector<int32_t> free_components_;
  std::vector<int32_t> dirty_;
  std::vector<std::pair<uint64_t, ActivityId>> ending_;
  std::vector<ResourceId> merged_;
  uint64_t sequence_ = 0;
  std::function<void(Duration)> told_;
};

}  // namespace rehearse
