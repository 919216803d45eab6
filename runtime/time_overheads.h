#pragma once
// Timing what the runtime adds to the kernels: waking lanes and meeting other ranks.

#include <cstdint>

#include "cost/overheads.h"

namespace rehearse {

// On `cores` cores; medians of many (messages: means), about a second.
Overheads time_overheads(int64_t cores);

}  // namespace rehearse
