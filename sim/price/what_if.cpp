#include "sim/price/what_if.h"

namespace rehearse {

GpuCalibration scaled(GpuCalibration calibration, WorkKind kind, double factor) {
  for (GpuEntry& e : calibration.entries) {
    if (e.kind != kind) continue;
    for (GpuEntry::Sample& sample : e.samples) sample.time = sample.time.scaled(factor);
  }
  return calibration;
}

}  // namespace rehearse
