#pragma once
// How well a calibration of GPUs tells the ops of a profile, and the pair that they make up.

#include <optional>
#include <set>
#include <vector>

#include "sim/import/profile.h"

namespace rehearse {

// One profiled overlapped pair.
struct Profile {
  std::string path;  // of the trace
  Trace trace;
  std::vector<ProfiledOp> ops;
  // Whole, from the first op's begin to the last one's end.
  Duration length() const;
  size_t repetitions() const;
  std::set<size_t> all_repetitions() const;
  // Share of the length in which kernels of a kind run, over all ops.
  double share_of(WorkKind kind) const;
};

// Predicted and measured span of one kind of op, without what waited for other ranks; means over
// the repetitions judged.
struct JudgedOp {
  OpName op;
  Duration predicted, measured;
  Duration waiting;  // measured
  double error() const { return predicted / measured - 1; }
};

// Predictions for repetitions `judged` of the profile: computation at the rows that they had,
// all-to-alls alone on their links with no expert preferred. Throws InputError when the trace was
// cut off, or has all-to-alls that the plan has not.
std::vector<JudgedOp> judge_ops(const Profile& profile,
                                const Plan& plan,
                                const GpuCalibration& calibration,
                                const std::set<size_t>& judged);

// The pair as the simulator has it, mean over ranks, with the plan's expert load: unequal loads are
// what makes ranks wait for one another.
struct JudgedPair {
  Duration step;
  double data_share = 0;     // of the step: the communication lane's data on its way
  double waiting_share = 0;  // of the step: all-to-alls' wait for other ranks
  double exposed = 0;
};
JudgedPair judge_pair(const Plan& plan, const GpuCalibration& calibration);

// Every repetition left out in turn and told from the others.
struct LeftOut {
  size_t repetition = 0;
  JudgedPair pair;
  std::vector<JudgedOp> whole;     // all repetitions
  std::vector<JudgedOp> left_out;  // that one alone
};
// published: entries added to each calibration. REQUIRES: at least two repetitions.
std::vector<LeftOut> leave_each_out(const Profile& profile,
                                    const Plan& plan,
                                    const std::optional<GpuCalibration>& published);

// Puts the entries of a published calibration behind those of a profile, and works out what the
// computation beside all-to-alls asks of the memory.
void complete(GpuCalibration& calibration,
              const Plan& plan,
              const std::optional<GpuCalibration>& published);

}  // namespace rehearse
