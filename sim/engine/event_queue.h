#pragma once
// Events in order of (time, sequence): two events of one instant come out in the order they went
// in.

#include <cstdint>
#include <vector>

namespace rehearse {

class EventQueue {
 public:
  struct Event {
    int64_t time;  // picoseconds
    uint64_t sequence;
    uint64_t payload;
  };

  bool empty() const { return heap_.empty(); }
  // Gives back memory that busier times needed.
  void shrink() { heap_.shrink_to_fit(); }
  // REQUIRES: not empty.
  const Event& next() const { return heap_.front(); }

  void push(int64_t time, uint64_t payload) {
    const Event event{time, sequence_++, payload};
    heap_.push_back(event);
    rise(heap_.size() - 1, event);
  }

  // REQUIRES: not empty.
  Event pop() {
    const Event top = heap_.front();
    const Event last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(last);
    return top;
  }

 private:
  static constexpr size_t kArity = 4;  // shallower than a binary heap, and a node's children adjoin

  // Without a branch: which of two events is earlier cannot be guessed.
  static bool before(const Event& a, const Event& b) {
    return (a.time < b.time) | ((a.time == b.time) & (a.sequence < b.sequence));
  }

  // Places `event` at `at` or above.
  void rise(size_t at, const Event& event) {
    while (at > 0) {
      const size_t parent = (at - 1) / kArity;
      if (!before(event, heap_[parent])) break;
      heap_[at] = heap_[parent];
      at = parent;
    }
    heap_[at] = event;
  }

  // Fills the root's place. What comes from the end of the heap nearly always belongs near the end:
  // the hole goes all the way down, and the event rises from there.
  void sink(const Event& event) {
    size_t at = 0;
    const size_t size = heap_.size();
    for (;;) {
      const size_t first = at * kArity + 1;
      if (first + kArity <= size) {
        const size_t a = first + (before(heap_[first + 1], heap_[first]) ? 1 : 0);
        const size_t b = first + 2 + (before(heap_[first + 3], heap_[first + 2]) ? 1 : 0);
        const size_t least = before(heap_[b], heap_[a]) ? b : a;
        heap_[at] = heap_[least];
        at = least;
        continue;
      }
      if (first >= size) break;
      size_t least = first;
      for (size_t c = first + 1; c < size; ++c) {
        if (before(heap_[c], heap_[least])) least = c;
      }
      heap_[at] = heap_[least];
      at = least;
    }
    rise(at, event);
  }

  std::vector<Event> heap_;
  uint64_t sequence_ = 0;
};

}  // namespace rehearse
