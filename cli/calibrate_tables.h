#pragma once
// calibrate --from-tables: a device's file from tables of measured kernels. calibrate
// --judge-table: how well such a table tells rows that are not in it.

#include "cli/command.h"

namespace rehearse::cli {

// The one plan of `option`, whose cluster is of GPUs. Throws InputError, or UsageError.
Plan plan_on_gpus(const Options& options, const char* option);
void add_table_options(Options& options);
// REQUIRES: options.has("from-tables"); options.has("judge-table").
int calibrate_from_tables(const Options& options);
int judge_table(const Options& options);

}  // namespace rehearse::cli
