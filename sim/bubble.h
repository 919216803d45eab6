#pragma once
// Bubbles at unit costs, beside which a schedule's closed formula is held.

#include <vector>

#include "plan/program/program.h"

namespace rehearse {

// Units in which each pipeline rank idles when F = Bi = W = 1, an overlapped pair takes 3 and
// communication nothing. kCell: sends wait for whole cells, as the formulas have it; kOp: for the
// op that makes them.
std::vector<double> unit_bubbles(const Program::Spec& spec, Granularity granularity);

}  // namespace rehearse
