#pragma once
// When each op of one step began and ended, predicted or measured, keyed by op id, and the sums
// that both are compared by.

#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "plan/program.h"

namespace rehearse {

// The span of one op. begin: when it starts to work, after waiting for dependencies, for its turn
// in the lane and, for a recv, for the message.
struct Span {
  Duration begin;
  Duration end;
  bool operator==(const Span&) const = default;
};

struct Timeline {
  std::string source;       // "predicted" or "measured"
  std::vector<Span> spans;  // by global op id
  // From the step's beginning to its last op's end.
  Duration step() const;
  bool operator==(const Timeline&) const = default;
};

// Chrome/Perfetto trace JSON: a process per rank, a thread per lane, an event per op with its id.
// Times are microseconds with six decimals, so picoseconds survive.
std::string print_timeline(const Program& program, const Timeline& timeline);
// Reads what print_timeline wrote for the same Program. Throws InputError when it is not that.
Timeline parse_timeline(const Program& program, std::string_view json, const std::string& path);

// How one rank spent the step. Cell spans do not overlap: a cell begins no earlier than the cell
// before it ended. f, b, w, fb: sums of cell spans (b: whole backwards and input parts, w: deferred
// weight parts); optimizer: from the last cell's end to the step's end; bubble: the rest.
struct Breakdown {
  Duration f, b, w, fb, bubble, optimizer;
  // Within cells: no compute op runs while a dispatch or combine is unfinished.
  Duration exposed_comm;
};

struct Summary {
  Duration step;
  std::vector<Breakdown> ranks;      // by global rank
  double bubble_fraction = 0;        // mean over ranks of bubble / step
  double exposed_comm_fraction = 0;  // mean over ranks of exposed communication / step
};
Summary summarize(const Program& program, const Timeline& timeline);
// The mean of each part over ranks.
Breakdown mean(const std::vector<Breakdown>& ranks);

}  // namespace rehearse
