#pragma once
// The median of a training's step times, and the timeline of a step near it, without keeping every
// timeline: of a step that is past only its time is kept (8 bytes), and a bounded number of
// timelines.

#include <cstddef>
#include <cstdint>
#include <queue>
#include <vector>

#include "plan/program/timeline.h"

namespace rehearse {

// Which timelines are kept: when there are more than `kept`, the one goes that leaves the smallest
// gap between its neighbours in time, compared with its distance from the running median. So the
// kept ones stand densest around the median and are still there when it moves: a training whose
// steps get slower and slower ends with a median that was its slowest step half-way.
class MedianStep {
 public:
  // The timeline told is the median step's own where at most so many steps were added.
  static constexpr size_t kKept = 16;

  explicit MedianStep(size_t kept = kKept) : bound_(kept) {}

  void add(Duration step, Timeline timeline);

  // Of all steps added; of an even number the upper one of the two in the middle.
  // REQUIRES: a step was added, here and below.
  Duration median() const { return upper_.top(); }
  // The kept step nearest to the median, the earlier one of two that are equally near.
  struct Kept {
    Duration step;
    Timeline timeline;
  };
  const Kept& nearest() const { return kept_[nearest_index()]; }

  size_t kept() const { return kept_.size(); }

 private:
  size_t nearest_index() const;
  void drop_one();

  size_t bound_;
  std::vector<Kept> kept_;  // by time, equal ones in the order of arrival
  // Two halves of the times: lower_ holds the smaller ones, as many as upper_ or one less.
  std::priority_queue<Duration> lower_;
  std::priority_queue<Duration, std::vector<Duration>, std::greater<>> upper_;
};

}  // namespace rehearse
