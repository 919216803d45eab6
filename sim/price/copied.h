#pragma once
// What the SMs that copy for all-to-alls take of a device's memory bandwidth.

#include "plan/plan.h"

namespace rehearse {

// Share of the memory bandwidth that is left beside an all-to-all: every byte that is copied is
// read and written, in the time that the all-to-all takes, which is that of its slowest link or of
// the copying itself. Faster SMs move no more bytes where links are slower.
// rate: at which all communication SMs of a rank copy. Balanced routing, mean over the four
// all-to-alls of a layer; 1 where there are none. At least half is left.
double memory_left(const Plan& plan, double rate);
// The same of a rate at which bytes are copied.
double memory_left(double copied, BytesPerSecond memory);

}  // namespace rehearse
