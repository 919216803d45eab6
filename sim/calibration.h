#pragma once
// Measured costs of kernels on one machine, with the conditions they were measured under.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "cost/kernel_call.h"

namespace rehearse {

struct KernelTime {
  Duration alone;  // median, nothing else running
  Duration low;    // 5th percentile of those runs
  Duration high;   // 95th percentile
  Duration busy;   // median while every other core runs the same kernel
  bool operator==(const KernelTime&) const = default;
};

struct Calibration {
  std::string machine;     // processor name
  int64_t cores = 1;       // that ran at once for KernelTime::busy
  std::string build;       // compiler and matrix library of the measured program
  Duration lane_handover;  // from an op's end to the start of one on another lane of its rank
  std::map<KernelCall, KernelTime> kernels;

  bool operator==(const Calibration&) const = default;
};

// Throws InputError; a file that was cut off is recognised by its count of kernels.
Calibration load_calibration(const std::string& path);
std::string print_calibration(const Calibration& calibration);

// The time of a call between or beyond measured ones of the same kernel that differ in rows alone:
// linear between neighbours, in proportion beyond them. Nothing when there is none such.
std::optional<KernelTime> interpolate(const Calibration& calibration, const KernelCall& call);

}  // namespace rehearse
