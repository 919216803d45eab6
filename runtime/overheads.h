#pragma once
// Timing what the runtime adds to the kernels: waking lanes and meeting other ranks.

#include <cstdint>

#include "base/units.h"

namespace rehearse {

struct OverheadTimings {
  Duration op_start;      // of an op that follows another one on its lane
  Duration wake_idle;     // from a lane's end of work to the start of another's; idle cores around
  Duration wake_busy;     // the same while all other cores work
  Duration message_idle;  // of a message over an emulated link, beyond what the link takes
  Duration message_busy;  // the same while all cores work
  Duration collective;    // from the last rank's arrival to the end of a meeting without work
};

// On `cores` cores; medians of many (messages: means), about a second.
OverheadTimings time_overheads(int64_t cores);

}  // namespace rehearse
