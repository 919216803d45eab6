#pragma once
// Cores: every lane of every local rank is a thread of its own, and work is done when it was asked
// for.

#include <vector>

#include "runtime/communicators/host_lanes.h"
#include "runtime/compute/recipe.h"
#include "runtime/devices/cpu/cpu_compute.h"
#include "runtime/devices/device.h"

namespace rehearse {

class CpuDevice : public TrainingDevice {
 public:
  // The communicator must outlive it.
  CpuDevice(const Plan& plan, Communicator& communicator);

  BufferPool& pool(int64_t rank) override { return at(rank).pool; }
  const Compute& compute(int64_t rank) override { return at(rank).compute; }
  LaneCommunicator& lanes() override { return lanes_; }
  void abort() override { communicator_.abort(); }

 private:
  struct Rank {
    Rank(const kernels::RopeTable& rope, const PrecisionRecipe& recipe)
        : compute(pool, rope, recipe.accumulation) {}
    BufferPool pool;
    CpuCompute compute;
  };
  Rank& at(int64_t rank) const;

  Communicator& communicator_;
  kernels::RopeTable rope_;
  HostLanes lanes_;
  std::vector<std::unique_ptr<Rank>> ranks_;  // by global rank; null: on another process
};

// Rotations of a plan's positions.
kernels::RopeTable rope_table(const Plan& plan);

}  // namespace rehearse
