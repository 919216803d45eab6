#pragma once
// Timing single kernels on this machine: alone, and while every other core runs the same.

#include <functional>
#include <vector>

#include "cost/kernel_call.h"

namespace rehearse {

struct KernelTiming {
  Duration median, low, high;  // alone: median, 5th and 95th percentile
  Duration busy;               // median while all cores run the kernel
};

// Times one call of the CPU kernel, for about `budget` per condition. cores: how many run at once
// for KernelTiming::busy.
KernelTiming time_cpu_kernel(const KernelCall& call, int64_t cores, Duration budget);

// From one thread's end of work to another's start, as lanes hand ops over: median of many.
Duration time_lane_handover();

// "Intel(R) Xeon(R) ..." of this machine.
std::string processor_name();
// Compiler and matrix library of this program.
std::string build_description();

}  // namespace rehearse
