#pragma once
// calibrate --kernels: times of our own GPU kernels become a calibration.

#include "cli/command.h"

namespace rehearse::cli {

void add_kernel_options(Options& options);
// REQUIRES: options.has("kernels").
int calibrate_kernels(const Options& options);

}  // namespace rehearse::cli
