#pragma once
// Timing single kernels on this machine: alone, and while every other core runs the same.
//
// A kernel meets in a training step some inputs that the kernel before it has just written, and
// others (weights, saved activations, gradients) that were last touched many ops ago. The bench
// keeps that apart: fresh operands are the same buffer in every call and so stand in the cache as
// far as they fit there, stored ones take turns through a working set as large as a step's.

#include <functional>
#include <vector>

#include "cost/kernel_call.h"

namespace rehearse {

struct KernelTiming {
  Duration alone, low, high;  // one call: median, 5th and 95th percentile
  Duration busy;              // median while every core runs the kernel
};

struct KernelBenchOptions {
  int64_t cores = 1;  // how many run at once for KernelTiming::busy
  Duration budget;    // per kernel, condition and round; at least one call is made
  int64_t rounds = 1;
  std::function<void(int64_t done, const KernelCall& call)> progress;  // done of calls x rounds
};

// All calls are timed once per round, so that a machine whose speed drifts shows that in every
// kernel's spread alike. timings[call][round].
std::vector<std::vector<KernelTiming>> time_cpu_kernels(const std::vector<KernelCall>& calls,
                                                        const KernelBenchOptions& options);

}  // namespace rehearse
