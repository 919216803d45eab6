#pragma once
// Reports as pages: one file with everything in it, for a browser, paper and a phone.

#include <optional>
#include <string>

#include "cli/report.h"
#include "plan/plan.h"
#include "plan/program/program.h"
#include "plan/program/timeline.h"
#include "sim/price/calibration.h"

namespace rehearse::cli {

// The cells of one replica's pipeline ranks as pages draw them: `cells`, six numbers each (rank,
// kind, micro-batch forward and backward or -1, begin and length in microseconds), and a `note`.
Report cells_of(const Program& program, const OpSpans& spans);
Report cells_of(const Program& program, const Timeline& timeline);
// Simulated; of very many cells only the step's first micro-batches.
Report cells_of(const Plan& plan, const std::optional<Calibration>& calibration);
// Names of the kinds of cells.
void put_cell_kinds(Report& page);

// kind: which of its pages (cli/page/page.js): plan, simulate, compare or replay. data: what it
// draws. text: the report for people, below.
std::string print_page(const std::string& kind,
                       const std::string& title,
                       const std::string& subtitle,
                       const Report& data,
                       const std::string& text);

}  // namespace rehearse::cli
