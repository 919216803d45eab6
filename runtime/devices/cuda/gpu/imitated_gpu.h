#pragma once
// The card of tests: memory of the imitation, which knows what was written, what a launch may touch
// and which work is behind which; streams whose work is done in any order that waits allow:
// which one, a seed says.

#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/random.h"
#include "kernels/ptx/imitation/global_memory.h"
#include "runtime/devices/cuda/gpu/gpu.h"
#include "runtime/memory/lane_order.h"

namespace rehearse {

struct ImitatedOptions {
  int32_t streams = 28;
  uint64_t seed = 0;                // of the order; odd: work begins while more is asked
  size_t memory = size_t{1} << 40;  // bytes of the card
  // What is done wrong on purpose, of the n-th since the card was made.
  int64_t lost_wait = -1;    // a wait that makes a difference does not wait
  int64_t lost_record = -1;  // an event is not recorded
  int64_t stuck = -1;        // a launch never ends
  int64_t lost_launch = -1;  // a launch does nothing
};

class ImitatedGpu : public Gpu {
 public:
  explicit ImitatedGpu(const ImitatedOptions& options)
      : Gpu(kernels::imitated_kernels()),
        options_(options),
        memory_(*this),
        order_(options.streams),
        random_(options.seed),
        lanes_(static_cast<size_t>(options.streams)) {}

  Memory& memory() override { return memory_; }
  MemorySize memory_size() override {
    return {options_.memory, options_.memory - memory_.allocated()};
  }

  void on(int32_t lane, const std::string& name) override {
    order_.set_current(lane);
    name_ = name;
  }
  void launch(Work work) override {
    const int64_t n = launches_++;
    if (n == options_.lost_launch) {
      lost_ = name_;
      return;
    }
    ask([work = std::move(work)] { work({}); }, n == options_.stuck);
  }
  void copy(const void* from, void* to, size_t bytes) override {
    ask([=] { device().copy(to, from, bytes); });
  }
  void clear(void* at, size_t bytes) override {
    ask([=] { device().upload(at, std::vector<std::byte>(bytes).data(), bytes); });
  }
  void upload(const void* from, void* to, size_t bytes) override {
    const auto* const begin = static_cast<const std::byte*>(from);
    ask([to, all = std::vector<std::byte>(begin, begin + bytes)] {
      device().upload(to, all.data(), all.size());
    });
  }
  void download(const void* from, void* to, size_t bytes) override {
    ask([=] { device().download(to, from, bytes); });
  }
  void taken(void* at, size_t bytes) override {
    ask([=] { device().forget(at, bytes); });
  }

  void record(int64_t event) override {
    order_.advance();
    if (records_++ != options_.lost_record) {
      const std::lock_guard lock(mutex_);
      events_[event] = {order_.snapshot(), false, 0};
    }
    lane().push_back({.event = event});
    if (options_.seed % 2 == 1) run_some(static_cast<int64_t>(random_.next() % 8));
  }
  void wait(int64_t event) override {
    const auto found = events_.find(event);
    if (found == events_.end()) {
      throw ScheduleError(name_ + " waits for an event that is not recorded yet");
    }
    const LaneOrder::Snapshot before = order_.snapshot();
    const LaneOrder::Snapshot& there = found->second.there;
    bool matters = false;
    for (size_t i = 0; i < before.size(); ++i) matters = matters || there[i] > before[i];
    if (!matters) return;
    if (waits_++ == options_.lost_wait) {
      lost_ = name_;
      return;
    }
    order_.wait(there);
    lane().push_back({.event = event, .waits = true});
  }
  bool reached(int64_t event) override {
    const std::lock_guard lock(mutex_);
    const auto found = events_.find(event);
    return found != events_.end() && found->second.reached;
  }
  void finish(const std::function<void()>& watch) override {
    while (run_one()) {
    }
    for (const auto& all : lanes_) {
      // What never ends does so for the watch too.
      while (!all.empty()) {
        watch();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    order_.all_ended();
    device().all_ended();
    memory_.all_ended();
    times_.clear();
    for (const auto& [event, e] : events_) times_[event] = e.time;
    const std::lock_guard lock(mutex_);
    events_.clear();
    clock_ = 0;
  }
  // A work's end is a nanosecond behind the last one's.
  Duration time_of(int64_t event) override { return Duration::nanoseconds(times_.at(event)); }

  int64_t waits() const { return waits_; }           // that made a difference
  const std::string& lost() const { return lost_; }  // whose wait or launch
  int64_t launches() const { return launches_; }     // so far

 private:
  struct Item {
    std::function<void()> work = {};
    std::shared_ptr<const kernels::imitation::StreamWork> who = {};
    int64_t event = 0;  // recorded or waited for, where there is no work
    bool waits = false;
    bool stuck = false;
  };
  struct Event {
    LaneOrder::Snapshot there;
    bool reached = false;
    int64_t time = 0;
  };

  static kernels::imitation::GlobalMemory& device() {
    return kernels::imitation::GlobalMemory::instance();
  }
  std::deque<Item>& lane() { return lanes_[static_cast<size_t>(order_.current())]; }
  bool idle() const {
    for (const auto& all : lanes_) {
      if (!all.empty()) return false;
    }
    return true;
  }
  // By the host: what is under way may be using it.
  void require_idle() const {
    CHECK(idle()) << "the host touches a card's memory while work is under way";
  }

  void ask(std::function<void()> work, bool stuck = false) {
    if (order_.current() < 0) {
      require_idle();
      return work();
    }
    order_.advance();
    auto who = std::make_shared<kernels::imitation::StreamWork>();
    who->who = name_;
    who->stream = order_.current();
    who->position = order_.now().position;
    who->behind = order_.snapshot();
    lane().push_back({.work = std::move(work), .who = std::move(who), .stuck = stuck});
  }

  void run_some(int64_t pieces) {
    while (pieces-- > 0 && run_one()) {
    }
  }
  bool can_run(const std::deque<Item>& all) const {
    if (all.empty() || all.front().stuck) return false;
    if (!all.front().waits) return true;
    return events_.at(all.front().event).reached;
  }
  bool run_one() {
    std::vector<size_t> ready;
    for (size_t l = 0; l < lanes_.size(); ++l) {
      if (can_run(lanes_[l])) ready.push_back(l);
    }
    if (ready.empty()) return false;
    auto& from = lanes_[ready[random_.next() % ready.size()]];
    const Item item = std::move(from.front());
    from.pop_front();
    ++clock_;
    if (item.work) {
      device().enter_work(item.who);
      struct Leave {
        ~Leave() { device().enter_work(nullptr); }
      } leave;
      item.work();
    } else if (!item.waits) {
      const std::lock_guard lock(mutex_);
      if (const auto found = events_.find(item.event); found != events_.end()) {
        found->second.reached = true;
        found->second.time = clock_;
      }
    }
    return true;
  }

  class ImitatedMemory : public Memory {
   public:
    explicit ImitatedMemory(const ImitatedGpu& gpu) : gpu_(gpu) {}
    bool on_host() const override { return false; }
    std::byte* allocate(size_t bytes) override {
      if (bytes > gpu_.options_.memory - allocated_) throw std::bad_alloc();
      auto* p = static_cast<std::byte*>(device().allocate(std::max<size_t>(bytes, 1)));
      sizes_[p] = bytes;
      if (!gpu_.idle()) fresh_.insert(p);
      allocated_ += bytes;
      return p;
    }
    void release(std::byte* memory) noexcept override {
      if (memory == nullptr) return;
      allocated_ -= sizes_.at(memory);
      sizes_.erase(memory);
      fresh_.erase(memory);
      device().release(memory);
    }
    void read(const void* from, void* to, size_t bytes) const override {
      gpu_.require_idle();
      if (bytes > 0) device().download(to, from, bytes);
    }
    void write(const void* from, void* to, size_t bytes) override {
      // Memory made in this step is the host's until it asks for work on it.
      if (!fresh_.contains(static_cast<std::byte*>(to))) gpu_.require_idle();
      if (bytes > 0) device().upload(to, from, bytes);
    }
    void clear(void* at, size_t bytes) override {
      write(std::vector<std::byte>(bytes).data(), at, bytes);
    }
    size_t allocated() const { return allocated_; }
    void all_ended() { fresh_.clear(); }

   private:
    const ImitatedGpu& gpu_;
    std::map<std::byte*, size_t> sizes_;
    std::set<std::byte*> fresh_;  // made while work was under way
    size_t allocated_ = 0;
  };

  const ImitatedOptions options_;
  ImitatedMemory memory_;
  LaneOrder order_;
  Random random_;
  std::vector<std::deque<Item>> lanes_;
  std::string name_, lost_;
  std::mutex mutex_;  // of what another thread asks: events_
  std::map<int64_t, Event> events_;
  std::map<int64_t, int64_t> times_;
  int64_t clock_ = 0;
  int64_t waits_ = 0, records_ = 0, launches_ = 0;
};

}  // namespace rehearse
