#pragma once
// What disturbed a measurement on this machine, in words and in figures.

#include <optional>
#include <string>
#include <vector>

#include "base/machine_load.h"
#include "cli/report.h"
#include "plan/program/waking.h"

namespace rehearse::cli {

// Who has this machine's cores just now: looks for a second, in which this process sleeps. None
// where the kernel tells nothing.
std::optional<MachineLoad> look_at_machine();

// "other processes had 0.90 of 2 cores while <what>", where that is a share worth telling; else
// empty. what: "this was measured".
std::string busy_warning(const std::optional<MachineLoad>& load, const std::string& what);
// "ops began late while <what>: ...", likewise.
std::string late_warning(const std::optional<Waking>& waking,
                         Duration step,
                         const std::string& what);

// A line "warning: ..." for each that is not empty, and all of them as a list for programs
// (`warnings`). after: where there are any, a line behind
// them, such as "the errors below include that".
void put_warnings(Report& report,
                  const std::vector<std::string>& warnings,
                  const std::string& after);
// For programs: an object `key`, or null.
void put_load(Report& report, const std::string& key, const std::optional<MachineLoad>& load);
void put_waking(Report& report, const std::optional<Waking>& waking);

}  // namespace rehearse::cli
