#pragma once
// The order of work that has been enqueued on lanes and may not have run: what is behind what. A
// device that enqueues asks it before memory changes hands.
//
// Every lane counts what was enqueued on it and remembers, of every other lane, how far that had
// come where this one last waited for it (vector clocks: Fidge 1988, Mattern 1989).

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rehearse {

// Behind so much of a lane's work.
struct LaneEvent {
  int32_t lane = -1;  // negative: of none, behind nothing
  int64_t position = 0;
};

class LaneOrder {
 public:
  explicit LaneOrder(int32_t lanes) : clocks_(static_cast<size_t>(lanes)) {
    for (auto& clock : clocks_) clock.resize(static_cast<size_t>(lanes), 0);
  }
  virtual ~LaneOrder() = default;

  // The lane on which work is enqueued from now on; negative: none, nothing is under way.
  void set_current(int32_t lane) { current_ = lane; }
  int32_t current() const { return current_; }
  // More work on it.
  void advance() {
    if (current_ >= 0) ++clock(current_, current_);
  }
  // Behind what was enqueued on the current lane.
  LaneEvent now() const {
    return current_ < 0 ? LaneEvent() : LaneEvent{current_, clock(current_, current_)};
  }
  // Whether what is enqueued next on the current lane runs behind `e`.
  bool behind(LaneEvent e) const {
    return e.lane < 0 || current_ < 0 || clock(current_, e.lane) >= e.position;
  }
  // What the current lane is behind, for others to wait for.
  using Snapshot = std::vector<int64_t>;
  Snapshot snapshot() const { return clocks_[static_cast<size_t>(current_)]; }
  // The current lane waits for what another one had come to.
  void wait(const Snapshot& there) {
    Snapshot& here = clocks_[static_cast<size_t>(current_)];
    for (size_t i = 0; i < here.size(); ++i) {
      if (there[i] > here[i]) here[i] = there[i];
    }
  }
  // All that was enqueued has run.
  void all_ended() {
    for (auto& clock : clocks_) {
      for (size_t i = 0; i < clock.size(); ++i) clock[i] = clocks_[i][i];
    }
  }

  // Behind the last use of a buffer that is given back now.
  virtual LaneEvent last_use() const { return now(); }
  // A pool's buffer changes hands: what is in it is no longer anybody's.
  virtual void taken(std::byte* /*data*/, size_t /*bytes*/) {}

 private:
  int64_t& clock(int32_t lane, int32_t of) {
    return clocks_[static_cast<size_t>(lane)][static_cast<size_t>(of)];
  }
  const int64_t& clock(int32_t lane, int32_t of) const {
    return clocks_[static_cast<size_t>(lane)][static_cast<size_t>(of)];
  }

  std::vector<Snapshot> clocks_;
  int32_t current_ = -1;
};

}  // namespace rehearse
