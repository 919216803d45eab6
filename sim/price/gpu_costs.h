#pragma once
// What work costs a GPU, from a calibration: the rules that lead from what was measured to other
// shapes, other numbers of SMs, other formats and other devices.

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "plan/program/beside.h"
#include "sim/price/gpu_calibration.h"

namespace rehearse {

// Times on `target` of work that may not have been measured:
//   product     flops over peak plus bytes over bandwidth, times a factor: that of the measured
//               product of its shape; else the mean, in logarithms, of the factors of its family's,
//               each weighted by the inverse square of the distance between the shapes' logarithms.
//               So another format, or another device, reaches the same share of its own limits.
//               Products measured beside communication weigh ten times those measured alone. Where
//               an op's products were measured all together, its products have their common factor.
//               No measured product of the family: those of the family it falls back to (grouped
//               weight gradients to weight gradients, these and grouped products to dense ones).
//   attention   at the share of the peak that the same op's core has, else the mean of all.
//   gaps        between kernels: as long as the same op's, else as large a share of the time as in
//               all measured ops together.
//   other kinds at the share of memory bandwidth that the same op's work of this kind has, else
//               this kind's in all ops (a stream as permutations), else that of all memory-bound
//               work; small kernels of all sorts (elementwise) of an op that was not measured go to
//               the last at once, since as a kind they have no rate of their own.
// What is like nothing measured takes its ideal time.
// From alone to beside communication: tensor work has fewer SMs, and is slower by a factor common
// to all (power, caches), which products measured both ways give; memory-bound work has the
// bandwidth that communication leaves, whose bytes are those that were moved in the time that
// profiled all-to-alls took, and that these of the target take. The SMs that copy for an all-to-all
// wait for memory, longer the busier it is: they slow down by 1 + c d / (1 - d), d being the share
// of the memory bandwidth that the computation beside them uses, c from profiled all-to-alls.
class GpuCosts {
 public:
  // How a process launches products that run alone: with all SMs, or, where others of its products
  // run beside communication, with as many as those, a process setting the number once (so does the
  // published profile's: its products have grids of 112 on 132 SMs).
  enum class Launch : uint8_t { kAllSms, kSmsLeft };
  // REQUIRES: a target that can compute what will be asked for (require_computable).
  // memory_left: of the target's bandwidth beside all-to-alls (memory_left()); none: as where these
  // are held up by nothing but the SMs that copy.
  GpuCosts(const GpuCalibration& calibration,
           const Cluster& target,
           Launch launch = Launch::kAllSms,
           std::optional<double> memory_left = {});
  GpuCosts(const GpuCosts&) = delete;  // products_ point into calibration_
  GpuCosts& operator=(const GpuCosts&) = delete;

  struct Time {
    Duration alone, beside;
    Duration between;   // launched for the SMs that communication leaves, while it is not there
    Duration measured;  // of beside: how much was measured at its very shape or op
    bool known = true;  // false: nothing like it was measured, and it takes its ideal time
  };
  Time time(OpKind op, Pass pass, std::span<const GpuTask> tasks) const;
  Time time(OpKind op, Pass pass, const GpuTask& task) const;

  // Share of the memory bandwidth that ops with these tasks use, beside communication, 0 to 1.
  double demand(const OpTasks& ops) const;
  // Factor on an all-to-all's copying beside computation with such a demand.
  double copy_slowdown(OpKind op, Pass pass, double demand) const;
  // How much slower tensor work is beside communication than its SMs account for; 1 when no product
  // was measured both ways.
  double contention() const { return contention_; }
  // Bytes per second that all communication SMs of a rank of `target` copy, beside computation as
  // slow as in profiled all-to-alls.
  static double copy_rate(const GpuCalibration& calibration, const Cluster& target);
  // Standard deviations of logarithms: of all compute work of one repetition against another; of a
  // product's factor as told from the other products'.
  double repetition_spread() const { return repetition_spread_; }
  double transfer_error() const { return transfer_error_; }

 private:
  struct Factor {
    const GpuEntry* entry = nullptr;
    double beside = 0;  // time over ideal time, beside communication
  };
  double product_factor(
      OpKind op, Pass pass, const GpuTask& task, const Factor* without, bool* exact) const;
  // Measured over ideal seconds of entries of a kind, of this op or of all.
  double memory_factor(OpKind op, Pass pass, WorkKind kind, bool* exact) const;
  double attention_factor(OpKind op, Pass pass, bool* exact) const;
  double entry_factor(const GpuEntry& e) const;
  void find_other_factors();
  void find_spreads();

  GpuCalibration calibration_;
  GpuPeaks peaks_;                          // of the target
  bool same_device_ = true;                 // as was measured, by its peaks
  double reference_share_ = 1, share_ = 1;  // SMs over those left beside communication
  double launch_share_ = 1;                 // SMs over those that a product alone is launched with
  double reference_memory_ = 1, memory_ = 1;  // memory bandwidth left beside communication
  double contention_ = 1;
  double gap_share_ = 0;  // of compute ops' kernels, in gaps between them
  double repetition_spread_ = 0, transfer_error_ = 0;
  std::vector<Factor> products_;
  struct OtherFactor {
    double alone = 1;  // over the ideal time
    bool known = false, exact = false;
  };
  size_t op_index(OpKind op, Pass pass) const {
    return static_cast<size_t>(op) * kPasses + static_cast<size_t>(pass);
  }
  std::vector<std::vector<OtherFactor>> other_factors_;  // by op, then kind of work
  std::vector<std::optional<Duration>> gaps_;            // by op
};

}  // namespace rehearse
