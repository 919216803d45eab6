#pragma once
// When each op of one step began and ended, predicted or measured, keyed by op id, and the sums
// that both are compared by.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/machine_load.h"
#include "base/units.h"
#include "plan/program/program.h"
#include "plan/program/stand_ins.h"

namespace rehearse {

// The span of one op. begin: when it starts to work, after waiting for dependencies, for its turn
// in the lane and, for a recv, for the message. On GPUs an all-to-all's begins when its rank comes
// to it, since the kernel waits for the other members on the device.
struct Span {
  Duration begin;
  Duration end;
  bool operator==(const Span&) const = default;
};

struct Timeline {
  std::string source;            // "predicted" or "measured"
  std::string shapes = {};       // of what (shapes_of a plan); empty: not told
  std::vector<Span> spans = {};  // by global op id
  // Of a predicted one: whether a calibration priced it, not flops and bytes alone. Of a measured
  // one: who else had the machine's cores. None: not told.
  std::optional<bool> calibrated = {};
  std::optional<MachineLoad> load = {};
  // From the step's beginning to its last op's end.
  Duration step() const;
  bool operator==(const Timeline&) const = default;
};

// What an executor tells about a step, op by op as they end: a Timeline keeps all spans, a Summary
// is made of them without keeping any. Spans of one rank come in the order of their ends; ranks may
// come from several threads.
class TimelineSink {
 public:
  virtual ~TimelineSink() = default;
  // waited: how much of an all-to-all's span was waiting for other members.
  virtual void record(OpId id, const Span& span, Duration waited) = 0;
};

// Chrome/Perfetto trace JSON: a process per rank, a thread per lane, an event per op with its id.
// Times are microseconds with six decimals, so picoseconds survive.
std::string print_timeline(const Program& program, const Timeline& timeline);
// The same of some ops only, by id: those of chosen ranks, too large a step to keep whole.
using OpSpans = std::vector<std::pair<OpId, Span>>;
// head: all but its spans count.
std::string print_timeline(const Program& program, const Timeline& head, const OpSpans& spans);
// Reads what print_timeline wrote for the same Program. Throws InputError when it is not that.
Timeline parse_timeline(const Program& program, std::string_view json, const std::string& path);

// How one rank spent the step. Cell spans do not overlap: a cell begins no earlier than the cell
// before it ended. f, b, w, fb: sums of cell spans (b: whole backwards and input parts, w: deferred
// weight parts); optimizer: from the last cell's end to the step's end; bubble: the rest.
struct Breakdown {
  Duration f, b, w, fb, bubble, optimizer;
  // Within cells: no compute op runs while a dispatch or combine is unfinished, nor a collective of
  // ranks that share matrices or a sequence.
  Duration exposed_comm;
  // Within cells: no compute op runs while such a collective is unfinished.
  Duration exposed_shared;
  // All-to-all ops' waiting for other members, hidden or not: skew between ranks.
  Duration exchange_wait;
};

struct Summary {
  Duration step;
  std::vector<Breakdown> ranks;      // by global rank
  double bubble_fraction = 0;        // mean over ranks of bubble / step
  double exposed_comm_fraction = 0;  // mean over ranks of exposed communication / step
  double exposed_shared_fraction = 0;
  double exchange_wait_fraction = 0;  // mean over ranks of all-to-alls' waiting / step
};
Summary summarize(const Program& program, const Timeline& timeline);

// Makes a Summary of spans as they come, in memory that does not grow with the step.
class SummaryBuilder : public TimelineSink {
 public:
  // ranks: whose spans will come, and for which others they stand.
  SummaryBuilder(const Program& program, StandIns ranks);
  void record(OpId id, const Span& span, Duration waited) override;
  Summary finish();

 private:
  struct Interval {
    int64_t begin = INT64_MAX, end = INT64_MIN;
  };
  struct OpenCell {
    Interval span;
    int32_t missing = 0;  // ops
  };
  struct Rank {
    Breakdown sums;
    int64_t last = 0;        // end of the last op
    int64_t cells_end = 0;   // of the cells counted so far
    int32_t first_open = 0;  // cell
    // Few at a time: vectors take less room than queues.
    std::vector<OpenCell> open;
    std::vector<Interval> compute, exchange;  // recent; see record()
    std::vector<Interval> shared, busy;       // busy: compute and shared
  };
  static void count_exposed(Rank& rank, OpKind kind, const Interval& now);
  void count_cell(Rank& rank, CellKind kind, const Interval& span);

  const Program& program_;
  StandIns stand_ins_;
  std::vector<std::vector<int32_t>> cell_ops_;  // by pipeline rank and cell
  bool shares_ = false;                         // some op is a collective of shared work
  std::vector<Rank> ranks_;                     // by pipeline rank x slots + slot
};
// The mean of each part over ranks.
Breakdown mean(const std::vector<Breakdown>& ranks);

}  // namespace rehearse
