#pragma once
// A predicted and a measured timeline of one Program: how far apart they are, and why.

#include <optional>
#include <string>
#include <vector>

#include "cost/overheads.h"
#include "plan/program/timeline.h"
#include "plan/program/waking.h"

namespace rehearse {

// Errors are predicted / measured - 1, signed: below 0 where the prediction is too short. Absolute
// ones say so.
struct Comparison {
  Duration predicted_step, measured_step;
  double step_error = 0;
  double op_error_median = 0;      // over ops that take time in both
  double op_error_median_abs = 0;  // of these the median of absolute errors
  double op_error_mean_abs = 0;    // and the mean
  Summary predicted, measured;
  // What the timelines tell of themselves, and what the measured one shows; none: not told.
  std::optional<bool> calibrated;   // the prediction
  std::optional<MachineLoad> load;  // while it was measured
  std::optional<Waking> waking;

  struct Pair {
    std::string name;
    int64_t count = 0;
    Duration predicted, measured;
    // Above 0 where it took longer than predicted.
    Duration difference() const { return measured - predicted; }
    // As above; none where nothing was measured.
    std::optional<double> error() const {
      if (measured <= Duration()) return std::nullopt;
      return predicted / measured - 1;
    }
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
// overheads: of the calibration that priced the prediction, for telling whether lanes woke late.
Comparison compare_timelines(const Program& program,
                             const Timeline& predicted,
                             const Timeline& measured,
                             const std::optional<Overheads>& overheads = {});

}  // namespace rehearse
