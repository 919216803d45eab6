#pragma once
// Work on lanes that is done later, in any order that the lanes, their waits and their meetings
// allow: which one, a seed says. A stand-in for streams and events.
//
// What work reads and writes is declared, and held against the order when it is enqueued: two uses
// of a byte of which one writes, neither behind the other, are an error, whether or not this seed's
// order shows it.

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/random.h"
#include "runtime/memory/array.h"
#include "runtime/memory/lane_order.h"

namespace rehearse {

// The last uses of every byte that work has declared.
class LastUses {
 public:
  // Throws ScheduleError where the current lane is not behind a use that this one clashes with.
  void use(
      const LaneOrder& order, const void* data, size_t bytes, bool writes, const std::string& who) {
    if (bytes == 0) return;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    const uintptr_t end = begin + bytes;
    longest_ = std::max(longest_, bytes);
    auto at = uses_.lower_bound({begin > longest_ ? begin - longest_ : 0, 0});
    while (at != uses_.end() && at->first.first < end) {
      if (at->first.second <= begin) {
        ++at;
        continue;
      }
      Use& u = at->second;
      clash(order, u.write, who);
      if (writes) {
        for (const auto& [lane, read] : u.reads) clash(order, read, who);
      }
      const bool covered = at->first.first >= begin && at->first.second <= end;
      at = writes && covered ? uses_.erase(at) : std::next(at);
    }
    Use& own = uses_[{begin, end}];
    const Seen now{order.now(), who};
    if (writes) {
      own = {now, {}};
    } else {
      own.reads[now.event.lane] = now;
    }
  }
  void clear() { uses_.clear(); }

 private:
  struct Seen {
    LaneEvent event;
    std::string who;
  };
  struct Use {
    Seen write;
    std::map<int32_t, Seen> reads;  // by lane
  };
  static void clash(const LaneOrder& order, const Seen& before, const std::string& who) {
    if (order.behind(before.event)) return;
    throw ScheduleError(fmt::format(
        "{} uses what {} may still be using: it waits for nothing behind that", who, before.who));
  }

  std::map<std::pair<uintptr_t, uintptr_t>, Use> uses_;  // by begin and end
  size_t longest_ = 0;
};

// What is done wrong on purpose.
struct LateFaults {
  int64_t lost_wait = -1;    // the n-th wait of a step that makes a difference does not wait
  int64_t lost_record = -1;  // the n-th op's end is not recorded
  bool early_free = false;   // buffers that are given back wait for nobody
};

class LaneQueue : public LaneOrder {
 public:
  LaneQueue(int32_t lanes, uint64_t seed, LateFaults faults)
      : LaneOrder(lanes), faults_(faults), random_(seed), lanes_(static_cast<size_t>(lanes)) {}

  // --- enqueuing, on the current lane
  using Work = std::function<void()>;
  // At once where no lane is current.
  void enqueue(std::vector<ConstArray> reads, std::vector<Array> writes, Work work) {
    if (current() < 0) return work();
    use(reads, writes);
    push({.work = std::move(work)});
  }
  // Done when all members have come to it, side by side.
  struct Meeting {
    uint64_t key = 0;
    std::vector<int32_t> lanes;
  };
  void meet(Meeting meeting, std::vector<ConstArray> reads, std::vector<Array> writes, Work work) {
    use(reads, writes);
    push({.work = std::move(work), .meeting = std::move(meeting)});
  }
  void begin(int32_t lane, std::string name, Work stamp) {
    set_current(lane);
    name_ = std::move(name);
    push({.work = std::move(stamp)});
  }
  // Records the end of what is enqueued on the lane, for others to wait for.
  void record(int64_t event) {
    advance();
    if (records_++ != faults_.lost_record) {
      events_[event] = {.snapshot = LaneOrder::snapshot(), .done = false};
    }
    push({.record = event});
    set_current(-1);
  }
  // Before begin: `lane` waits for an event. Throws ScheduleError for one that nobody has recorded,
  // since a stream would wait for nothing.
  void wait(int32_t lane, int64_t event, const std::string& who) {
    const auto found = events_.find(event);
    if (found == events_.end()) {
      throw ScheduleError(who + " waits for an event that is not recorded yet");
    }
    set_current(lane);
    const Snapshot before = LaneOrder::snapshot();
    LaneOrder::Snapshot& there = found->second.snapshot;
    bool matters = false;
    for (size_t i = 0; i < before.size(); ++i) matters = matters || there[i] > before[i];
    if (!matters || waits_++ != faults_.lost_wait) {
      LaneOrder::wait(there);
      push({.wait = event});
    }
    set_current(-1);
  }
  int64_t waits() const { return waits_; }  // of the step, that made a difference

  // --- doing it
  // Whatever can be done now, up to so many pieces.
  void run_some(int64_t pieces) {
    while (pieces-- > 0 && run_one()) {
    }
  }
  // All of it. Throws ScheduleError where nothing can be done any more.
  void run_all() {
    while (run_one()) {
    }
    for (const auto& lane : lanes_) {
      if (!lane.empty()) throw ScheduleError("work on a lane waits for what never comes");
    }
    all_ended();
    events_.clear();
    uses_.clear();
    waits_ = records_ = 0;
  }

  LaneEvent last_use() const override { return faults_.early_free ? LaneEvent() : now(); }
  // What is in a buffer that changes hands is nobody's: no number, wherever it is read.
  void taken(std::byte* data, size_t bytes) override {
    if (current() < 0) return;
    advance();
    uses_.use(*this, data, bytes, true, name_);
    push({.work = [data, bytes] { std::memset(data, 0xFF, bytes); }});
  }

 private:
  struct Item {
    Work work = {};
    Meeting meeting = {};
    int64_t wait = -1;
    int64_t record = -1;
  };
  struct Event {
    Snapshot snapshot;
    bool done = false;
  };

  void push(Item item) { lanes_[static_cast<size_t>(current())].push_back(std::move(item)); }
  void use(const std::vector<ConstArray>& reads, const std::vector<Array>& writes) {
    advance();
    for (const ConstArray& a : reads) {
      if (a.data != nullptr) uses_.use(*this, a.data, a.extent.buffer_bytes(), false, name_);
    }
    for (const Array& a : writes) {
      if (a.data != nullptr) uses_.use(*this, a.data, a.extent.buffer_bytes(), true, name_);
    }
  }

  bool can_run(size_t lane) const {
    if (lanes_[lane].empty()) return false;
    const Item& item = lanes_[lane].front();
    if (item.wait >= 0) return events_.at(item.wait).done;
    return std::all_of(item.meeting.lanes.begin(), item.meeting.lanes.end(), [&](int32_t other) {
      const auto& theirs = lanes_[static_cast<size_t>(other)];
      return !theirs.empty() && theirs.front().meeting.key == item.meeting.key &&
             theirs.front().meeting.lanes == item.meeting.lanes;
    });
  }
  bool run_one() {
    std::vector<size_t> ready;
    for (size_t l = 0; l < lanes_.size(); ++l) {
      if (can_run(l)) ready.push_back(l);
    }
    if (ready.empty()) return false;
    const size_t lane = ready[random_.next() % ready.size()];
    Item item = std::move(lanes_[lane].front());
    if (item.meeting.lanes.empty()) {
      lanes_[lane].pop_front();
      if (item.work) item.work();
      if (item.record >= 0 && events_.contains(item.record)) events_[item.record].done = true;
      return true;
    }
    std::vector<std::thread> members;
    std::exception_ptr failure;
    std::mutex mutex;
    for (const int32_t l : item.meeting.lanes) {
      auto& of = lanes_[static_cast<size_t>(l)];
      Work work =
          static_cast<size_t>(l) == lane ? std::move(item.work) : std::move(of.front().work);
      of.pop_front();
      members.emplace_back([work = std::move(work), &failure, &mutex] {
        try {
          work();
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
        }
      });
    }
    for (std::thread& t : members) t.join();
    if (failure) std::rethrow_exception(failure);
    return true;
  }

  LateFaults faults_;
  Random random_;
  std::vector<std::deque<Item>> lanes_;
  std::map<int64_t, Event> events_;
  LastUses uses_;
  std::string name_;
  int64_t waits_ = 0;
  int64_t records_ = 0;
};

}  // namespace rehearse
