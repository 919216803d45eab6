#pragma once
// What kernels_bench writes (kernels/checking/), read as a calibration of GPUs.

#include <string>

#include "sim/price/gpu_calibration.h"

namespace rehearse {

// `text`: JSON lines of one run. The device's peaks and links are the cluster's. Of several tile
// shapes of one product the fastest counts; times are those back to back, and of products that
// share the device those beside a kernel that holds the other SMs. Throws InputError, with `path`
// and line, where the lines are not of one whole run on such a device or a figure cannot be true.
GpuCalibration parse_kernel_bench(const std::string& text,
                                  const std::string& path,
                                  const Cluster& cluster);

}  // namespace rehearse
