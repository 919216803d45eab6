#pragma once
// calibrate --links: benchmarks of links become part of a calibration of GPUs.

#include "cli/command.h"

namespace rehearse::cli {

void add_link_options(Options& options);
// REQUIRES: options.has("links").
int calibrate_links(const Options& options);

}  // namespace rehearse::cli
