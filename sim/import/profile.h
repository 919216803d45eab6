#pragma once
// From a profiler's trace to calibration entries: which op every kernel belongs to, which kind of
// work it does, and how much work a plan says that was.

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/program/op_work.h"
#include "sim/import/trace.h"
#include "sim/price/gpu_calibration.h"

namespace rehearse {

// How kernels belong to ops and kinds of work: a YAML file.
//
//     ops:        # of kernels launched within an annotation, or whose name fits; * is anything
//       - {annotation: "attn(F)", op: attn.F}
//       - {kernel: "*combine*", op: combine.F}
//     kernels:    # first fit
//       - {name: "*GemmKernel*", work: product}
//       - {name: "*notify*", work: waiting}
//       - {name: "*", work: elementwise}
//     rows:       # of MoE ops: blocks of a kernel's grid (its largest) count its rows
//       - {op: mlp.F, kernel: "*swiglu*", rows: x}           # or: y, and times: 128
//       - {op: mlp.F, kernel: "*reduce*", tokens: x}         # tokens that arrived
struct ProfileMap {
  struct OpRule {
    std::string annotation, kernel;  // one of them
    OpName op;
  };
  struct KernelRule {
    std::string name;
    WorkKind kind;
  };
  struct RowsRule {
    OpName op;
    std::string kernel;
    bool tokens = false;  // else rows
    int axis = 0;
    int64_t times = 1;
  };
  std::vector<OpRule> ops;
  std::vector<KernelRule> kernels;
  std::vector<RowsRule> rows;
};
ProfileMap load_profile_map(const std::string& path);

// `pattern` with * for anything.
bool fits(std::string_view pattern, std::string_view text);

// One time that an op ran.
struct ProfiledOp {
  OpName op;
  Duration begin, end;
  int64_t rows = 0, arrived = 0;  // of MoE ops, where the map tells; else 0
  struct Kernel {
    WorkKind kind;
    int64_t blocks = 0;
    int32_t stream = 0;
    Duration begin, end;
  };
  std::vector<Kernel> kernels;  // by begin
  // Time of each kind; where several run at once, the one that has priority (profile.cpp).
  Duration of(WorkKind kind) const;
};

// Whether a rule of the map names such annotations.
bool names_annotation(const ProfileMap& map, std::string_view annotation);

// The profiled ops by begin. Throws InputError where rules leave nothing, or where kernels fit no
// rule.
std::vector<ProfiledOp> profile_ops(const Trace& trace,
                                    const ProfileMap& map,
                                    const std::string& path);

struct ImportOptions {
  std::set<OpName> only;            // ops to take; empty: all
  std::optional<size_t> leave_out;  // repetition of every op that is not taken, from 0
};
// The plan says what was profiled: model, sequence, EP, precision; its cluster which device, and
// how fast communication SMs copy when nothing computes. Each op must have run equally often.
// `source`: for the file.
GpuCalibration import_profile(const std::vector<ProfiledOp>& ops,
                              const Trace& trace,
                              const Plan& plan,
                              const std::string& source,
                              const ImportOptions& options = {});

// What an average rank has when no expert is preferred and the choice is random.
MemberLoad expected_load(const Plan& plan);
// That with the rows and arrived tokens that a profiled op had, where these are known.
MemberLoad with_rows(MemberLoad load, const ProfiledOp& op);
// GpuEntry::demand of all-to-alls profiled under `plan`, as the calibration itself prices what ran
// beside them.
void set_demands(GpuCalibration& calibration, const Plan& plan);

// Bytes that a rank's communication SMs copy for an op.
Bytes copies(const Plan& plan, OpName exchange, const MemberLoad& load);

}  // namespace rehearse
