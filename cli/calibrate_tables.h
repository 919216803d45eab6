#pragma once
// calibrate --judge-table: how well a table of measured products tells products that are not in it.

#include "cli/command.h"

namespace rehearse::cli {

void add_table_options(Options& options);
// REQUIRES: options.has("judge-table").
int judge_table(const Options& options);

}  // namespace rehearse::cli
