#pragma once
// How long ops of a measured step took to begin once they could.

#include "plan/program/timeline.h"

namespace rehearse {

// Of compute lanes, whose ops wait for nobody but their own rank. Since a rank's own lanes may keep
// each other from the cores, time counts as late only while fewer of the step's ops than the
// machine has cores were under way: a core was then free of them.
struct Waking {
  int64_t ops = 0;   // that waited for another lane
  Duration median;   // of these, from the end of what they waited for
  Duration allowed;  // what a calibration says that takes, on a busy machine
  Duration late;     // of all ops, what is beyond `allowed` each: mean over ranks
};
Waking waking_of(const Program& program, const Timeline& measured, int64_t cores, Duration allowed);

// Whether that is a share of the step worth telling (kNoticedShare).
bool woke_late(const Waking& waking, Duration step);

}  // namespace rehearse
