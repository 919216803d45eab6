#pragma once
// What the runtime adds to kernels on one machine; runtime/time_overheads.h measures it.

#include "base/units.h"

namespace rehearse {

struct Overheads {
  Duration op_start;      // of an op that follows another one on its lane
  Duration wake_idle;     // from an op's end to the start of one on another, sleeping lane
  Duration wake_busy;     // the same while all other cores work
  Duration message_idle;  // of a message over an emulated link, beyond what the link takes
  Duration message_busy;  // the same while all cores work
  Duration collective;    // a meeting of ranks without work, from the last arrival to its end
  bool operator==(const Overheads&) const = default;
};

}  // namespace rehearse
