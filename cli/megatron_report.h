#pragma once
// The best layout as a command of Megatron-LM's.

#include "cli/report.h"
#include "search/search.h"

namespace rehearse::cli {

// Its arguments and the line that starts them; where Megatron-LM does not run the layout, the
// nearest one that it runs, with its step and memory.
void put_megatron(Report& report,
                  const Plan& base,
                  const std::optional<Calibration>& calibration,
                  const Scored& best);

}  // namespace rehearse::cli
