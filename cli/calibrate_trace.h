#pragma once
// calibrate --from-trace: a profiler's trace becomes a calibration of GPUs, and judges one.

#include "cli/command.h"

namespace rehearse::cli {

void add_trace_options(Options& options);
// REQUIRES: options.has("from-trace").
int calibrate_from_trace(const Options& options);

}  // namespace rehearse::cli
