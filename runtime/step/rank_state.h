#pragma once
// What a rank holds from step to step.

#include <deque>
#include <optional>

#include "plan/routing/placement.h"
#include "runtime/step/stage.h"

namespace rehearse {

struct RankState {
  RankState(BufferPool& p, const Compute& c)
      : pool(p),
        compute(c),
        overflowed(DType::kInt64, 1, p.memory()),
        status(DType::kFp64, StepStatus::kSize, p.memory()) {}
  BufferPool& pool;
  const Compute& compute;
  std::deque<Stage> copies;  // by slot, an op's direction
  std::optional<ExpertGroup> experts;
  FlatValues overflowed;           // [1]: rows of experts that found no room in this step
  FlatValues status;               // of the last training step, of all ranks (StepStatus)
  int64_t held_micro_batches = 0;  // touched by the compute lane alone
  int64_t peak_micro_batches = 0;
};

}  // namespace rehearse
