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
  size_t size() const { return heap_.size(); }
  // REQUIRES: not empty.
  const Event& next() const { return heap_.front(); }

  void push(int64_t time, uint64_t payload) {
    heap_.push_back({time, sequence_++, payload});
    size_t at = heap_.size() - 1;
    const Event event = heap_[at];
    while (at > 0) {
      const size_t parent = (at - 1) / kArity;
      if (!before(event, heap_[parent])) break;
      heap_[at] = heap_[parent];
      at = parent;
    }
    heap_[at] = event;
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

  static bool before(const Event& a, const Event& b) {
    return a.time != b.time ? a.time < b.time : a.sequence < b.sequence;
  }

  // Places `event` as if at the root.
  void sink(const Event& event) {
    size_t at = 0;
    for (;;) {
      const size_t first = at * kArity + 1;
      if (first >= heap_.size()) break;
      size_t least = first;
      const size_t end = first + kArity < heap_.size() ? first + kArity : heap_.size();
      for (size_t c = first + 1; c < end; ++c) {
        if (before(heap_[c], heap_[least])) least = c;
      }
      if (!before(heap_[least], event)) break;
      heap_[at] = heap_[least];
      at = least;
    }
    heap_[at] = event;
  }

  std::vector<Event> heap_;
  uint64_t sequence_ = 0;
};

}  // namespace rehearse
