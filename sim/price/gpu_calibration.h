#pragma once
// What kernels and all-to-alls took on GPUs: imported from profiles (beside communication, op by
// op) and from published benchmarks (alone), and the rules that lead from there to other shapes,
// other numbers of SMs, other formats and other devices.

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cost/gpu_work.h"
#include "plan/plan.h"
#include "sim/import/link_benchmarks.h"

namespace rehearse {

// One kind of work of one op, or one product, in each repetition that was profiled.
struct GpuEntry {
  struct Sample {
    Duration time;
    Flops flops;
    Bytes bytes;
  };
  // The op it is part of; none: of any.
  std::optional<OpName> op;
  WorkKind kind = WorkKind::kProduct;
  Family family = Family::kDense;  // of products
  Format format = Format::kFp8;
  int64_t groups = 1, m = 0, n = 0, k = 0;  // of one product, rows being the samples' median; m =
                                            // 0: all products of the op together
  int64_t sms = 0;                          // blocks of its grid, where it is one wave
  bool beside = false;                      // communication kernels were on the device
  double demand = 0;  // of data: share of the memory bandwidth that the computation beside it uses
  std::vector<Sample> samples;
  std::string source;
};

struct GpuCalibration {
  std::string device;  // that was measured
  int64_t sms = 132;
  int64_t communication_sms = 20;  // held while an entry is `beside`
  GpuPeaks peaks;
  BytesPerSecond copy;  // all that the communication SMs move when nothing computes
  std::vector<GpuEntry> entries;
  // Of links, and of a communication SM that nothing disturbs, where benchmarks measured them: they
  // go before the cluster's.
  std::optional<LinkMeasurement> node_link, network;
  std::optional<BytesPerSecond> copy_per_sm;
  std::string source;
};

// Throw InputError; a file that was cut off is recognised by its count of entries.
GpuCalibration load_gpu_calibration(const std::string& path);
GpuCalibration parse_gpu_calibration(std::string text, const std::string& path);
// Puts links that `calibration` measured into the plan's cluster.
void use_links(Plan& plan, const GpuCalibration& calibration);
bool is_gpu_calibration(const std::string& path);  // by its first lines
std::string print_gpu_calibration(const GpuCalibration& calibration);

// Times on `target` of work that may not have been measured:
//   product     flops over peak plus bytes over bandwidth, times a factor: that of the measured
//               product of its shape; else the mean, in logarithms, of the factors of its family's,
//               each weighted by the inverse square of the distance between the shapes' logarithms.
//               So another format, or another device, reaches the same share of its own limits.
//   attention   at the share of the peak that the same op's core has.
//   gaps        of other ops than those measured: as large a share of the time.
//   other kinds at the share of memory bandwidth that the same op's work of this kind has, else
//   this
//               kind's in all ops, else all kinds'; a stream as permutations have.
// From alone to beside communication: tensor work has fewer SMs, and is slower by a factor common
// to all (power, caches), which products measured both ways give; memory-bound work has the
// bandwidth that communication leaves. The SMs that copy for an all-to-all wait for memory, longer
// the busier it is: they slow down by 1 + c d / (1 - d), d being the share of the memory bandwidth
// that the computation beside them uses, c from profiled all-to-alls.
class GpuCosts {
 public:
  // Throws InputError when `target` lacks what the calibration's formats need.
  GpuCosts(const GpuCalibration& calibration, const Cluster& target);
  GpuCosts(const GpuCosts&) = delete;  // products_ point into calibration_
  GpuCosts& operator=(const GpuCosts&) = delete;

  struct Time {
    double alone = 0, beside = 0;  // seconds
    double measured = 0;           // of beside: how much was measured at its very shape or op
    bool known = true;  // false: nothing like it was measured, and it takes its ideal time
  };
  Time time(OpKind op, Pass pass, std::span<const GpuTask> tasks) const;
  Time time(OpKind op, Pass pass, const GpuTask& task) const;

  // Share of the memory bandwidth that ops with these tasks use, beside communication, 0 to 1.
  using OpTasks = std::vector<std::pair<OpName, std::vector<GpuTask>>>;
  double demand(const OpTasks& ops) const;
  // Factor on an all-to-all's copying beside computation with such a demand.
  double copy_slowdown(OpKind op, Pass pass, double demand) const;
  // How much slower tensor work is beside communication than its SMs account for; 1 when no product
  // was measured both ways.
  double contention() const { return contention_; }
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
  GpuPeaks peaks_;                            // of the target
  bool same_device_ = true;                   // as was measured, by its peaks
  double reference_share_ = 1, share_ = 1;    // SMs over those left beside communication
  double reference_memory_ = 1, memory_ = 1;  // memory bandwidth left beside communication
  double contention_ = 1;
  double gap_share_ = 0;  // of compute ops' kernels, in gaps between them
  double repetition_spread_ = 0, transfer_error_ = 0;
  std::vector<Factor> products_;
  static constexpr size_t kOps = static_cast<size_t>(OpKind::kBiasUpdate) + 1;
  static constexpr size_t kPasses = static_cast<size_t>(Pass::kWeight) + 1;
  static constexpr size_t kKinds = static_cast<size_t>(WorkKind::kStream) + 1;
  struct OtherFactor {
    double alone = 1;  // over the ideal time
    bool known = false, exact = false;
  };
  std::array<std::array<std::array<OtherFactor, kKinds>, kPasses>, kOps> other_factors_;
  std::array<std::array<std::optional<double>, kPasses>, kOps> gaps_;
};

}  // namespace rehearse
