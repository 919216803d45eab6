#pragma once
// Reports of a planner's questions beside "which layout".

#include "cli/report.h"
#include "search/questions.h"

namespace rehearse::cli {

Report screen_error_report(const Plan& base, const ScreenError& error);
// What needs less memory than the layout, best first.
void put_memory_ways(Report& report, const std::vector<MemoryWay>& ways);
std::string memory_ways_text(const std::vector<MemoryWay>& ways);
void put_phases(Report& report, const Plan& base, const std::vector<PhaseAnswer>& answers);
void put_largest(Report& report, const Plan& base, Grown what, const Largest& found);
// What the first layout's step rests on: measured, interpolated, told; and what no layout's does.
void put_grounds(Report& report,
                 const Plan& plan,
                 const std::optional<Calibration>& calibration,
                 double imbalance);

}  // namespace rehearse::cli
