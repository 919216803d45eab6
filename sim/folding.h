#pragma once
// Which data ranks of a step provably do the same, so that one is simulated for all of them.

#include <string>

#include "plan/program/stand_ins.h"
#include "sim/gpu_world.h"

namespace rehearse {

// Every data rank, in islands that share nothing but the collectives that end a step (EP groups),
// unless links between them can be a bottleneck. Ranks that share matrices or a sequence, and no
// experts, go in step by construction: where their devices and links are equal, one of each such
// group is walked for all of it (world.memoise).
StandIns every_rank(const GpuWorld& world);

struct Folding {
  StandIns ranks;
  std::string not_further;  // why more than one data rank is simulated; empty where one is
};
// EP groups do the same when they have the same loads, and devices, links and distances to whatever
// they talk to, on every pipeline rank: one of each kind is simulated. Where all members of a group
// do the same too, one of them is.
// level_routes: distances do not count (REQUIRES: world.level_routes() was called).
Folding fold(const GpuWorld& world, ExpertLoad& load, bool level_routes = false);

}  // namespace rehearse
