#pragma once
// A rank's state on the CPU device.

#include <deque>
#include <optional>

#include "plan/routing/placement.h"
#include "runtime/devices/cpu/cpu_compute.h"
#include "runtime/stage.h"

namespace rehearse {

struct CpuRank {
  explicit CpuRank(const kernels::RopeTable& rope) : compute(pool, rope) {}
  BufferPool pool;  // before the tensors that use it
  CpuCompute compute;
  std::deque<Stage> copies;  // by slot, an op's direction
  std::optional<ExpertGroup> experts;
  double gradient_norm = 0;        // of the whole model, of the last step that had one
  int64_t held_micro_batches = 0;  // touched by the compute lane alone
  int64_t peak_micro_batches = 0;
};

}  // namespace rehearse
