#pragma once
// What kernels and all-to-alls took on GPUs, and the file it stands in: imported from profiles
// (beside communication, op by op) and from published benchmarks (alone). The rules that lead from
// there to other shapes and devices: sim/price/gpu_costs.h.

#include <optional>
#include <string>
#include <vector>

#include "cost/gpu_work.h"
#include "cost/op_kind.h"
#include "plan/plan.h"

namespace rehearse {

// A link as benchmarks measured it.
struct LinkMeasurement {
  BytesPerSecond bandwidth;         // per device and direction
  std::optional<Duration> latency;  // of one message
};

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

// Of devices as the cluster states them, of which nothing was measured: all work takes its ideal
// time, and communication SMs copy as fast as stated, or as the links carry.
GpuCalibration uncalibrated(const Cluster& cluster);

// Throw InputError; a file that was cut off is recognised by its count of entries.
GpuCalibration load_gpu_calibration(const std::string& path);
GpuCalibration parse_gpu_calibration(std::string text, const std::string& path);
// Writes what print_gpu_calibration says, once the reader has taken it. Throws InputError when it
// does not, or as write_file.
void write_gpu_calibration(const std::string& path, const GpuCalibration& calibration);
// Puts links that `calibration` measured into the plan's cluster.
void use_links(Plan& plan, const GpuCalibration& calibration);
bool is_gpu_calibration(std::string_view text);  // by its format line
std::string print_gpu_calibration(const GpuCalibration& calibration);

}  // namespace rehearse
