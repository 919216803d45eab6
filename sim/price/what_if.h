#pragma once
// What if a kind of work took longer.

#include "sim/price/gpu_calibration.h"

namespace rehearse {

// `calibration` with all times of entries of `kind` multiplied by `factor`.
GpuCalibration scaled(GpuCalibration calibration, WorkKind kind, double factor);

}  // namespace rehearse
