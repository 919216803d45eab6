#pragma once
// Which data ranks go in step where links between switches are shared: they do the same at the same
// time by construction, so that equal flows of an all-to-all are one.

#include <cstdint>
#include <vector>

#include "sim/gpu_world.h"

namespace rehearse {

// By data rank, a number that ranks in step have in common; empty where that is not known. Two are
// in step when on every pipeline rank they sit on the same switch with equal devices, and what they
// exchange with in their groups are ranks that pairwise are in step. Then every flow of one is the
// other's over the same links between switches, and max-min fair rates are equal too.
// REQUIRES: all ranks have the same load.
std::vector<int32_t> classes_in_step(const GpuWorld& world);

}  // namespace rehearse
