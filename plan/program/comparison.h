#pragma once
// A predicted and a measured timeline of one Program: how far apart they are, and why.

#include <string>
#include <vector>

#include "plan/program/timeline.h"

namespace rehearse {

// Errors are predicted / measured - 1, signed.
struct Comparison {
  Duration predicted_step, measured_step;
  double step_error = 0;
  double op_error_median = 0;  // over ops that take time in both
  double op_error_median_abs = 0;
  Summary predicted, measured;

  struct Pair {
    std::string name;
    int64_t count = 0;
    Duration predicted, measured;
    Duration difference() const { return measured - predicted; }
  };
  // Times in ops by kind ("mlp.F"), summed over ranks; the longest first.
  std::vector<Pair> kinds;
  // What a rank's compute lane does in a step, mean over ranks: its ops, and its waiting by what
  // it waited for ("for combine", "for recv", "to start").
  std::vector<Pair> lane;
  // The lane's work and its waiting by rank.
  struct Rank {
    Pair work, waiting;
  };
  std::vector<Rank> ranks;

  // Parts of the step, mean over ranks: F, B, W, F&B, bubble, optimizer, exposed communication.
  std::vector<Pair> phases() const;
  // What moved the measured step away from the predicted one most.
  struct Cause {
    Duration in_ops, in_waiting;  // per rank, on the compute lane
    // The kind of op, or the waiting, that differs most of the larger part; none without ops.
    bool mostly_ops = false;
    const Pair* most = nullptr;
  };
  Cause cause() const;
};
Comparison compare_timelines(const Program& program,
                             const Timeline& predicted,
                             const Timeline& measured);

}  // namespace rehearse
