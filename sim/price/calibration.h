#pragma once
// Calibration files: measured costs of kernels and of the runtime on one machine, with the
// conditions they were measured under, or those of GPUs. What they say about shapes between the
// measured ones: sim/price/estimate.h, sim/price/gpu_costs.h.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "cost/kernel_call.h"
#include "cost/overheads.h"
#include "sim/price/device.h"
#include "sim/price/gpu_calibration.h"

namespace rehearse {

struct KernelTime {
  Duration alone;  // median, nothing else running
  Duration mean;   // of those runs: what many calls add up to
  Duration low;    // 5th percentile
  Duration high;   // 95th percentile
  Duration busy;   // median while every other core runs the same kernel
  bool operator==(const KernelTime&) const = default;
};

struct Calibration {
  // Of GPUs, from profiles and benchmarks, or from tables of kernels; then the rest is empty.
  std::shared_ptr<const GpuCalibration> gpu;
  std::shared_ptr<const DeviceModel> device;
  std::string machine;   // processor
  int64_t cores = 1;     // that ran at once for KernelTime::busy
  std::string build;     // compiler and matrix library of the measured program
  std::string sources;   // fingerprint of the measured kernels' source code
  std::string measured;  // "2026-01-31 13:05 UTC"
  Overheads overheads;
  // All kernels are timed once per round: the time of each round over the median round's, geometric
  // mean over kernels. How the machine's speed wanders.
  std::vector<double> drift;
  // Relative error, root mean square, of interpolated times of shapes that were held out.
  double interpolation_error = 0;
  std::map<KernelCall, KernelTime> kernels;

  bool of_gpus() const { return gpu || device; }
  bool operator==(const Calibration&) const = default;
};

// Of either kind, CPU kernels or GPUs. Throws InputError; a file that was cut off is recognised by
// its count of kernels.
Calibration load_calibration(const std::string& path);
// Of CPU kernels alone.
Calibration parse_calibration(std::string text, const std::string& path);
std::string print_calibration(const Calibration& calibration);
// Writes what print_calibration says, once the reader has taken it. Throws InputError when it does
// not, or as write_file.
void write_calibration(const std::string& path, const Calibration& calibration);

}  // namespace rehearse
