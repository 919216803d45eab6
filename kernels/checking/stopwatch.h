#pragma once
// Times of GPU work, and the clock and the power that the GPU had meanwhile.

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels::gpu {

struct Timing {
  double median_us = 0;  // of single runs by events, each with a cold L2
  double spread = 0;     // 90th less 10th percentile, over the median
  double graph_us = 0;   // of a graph of many runs: no launch gaps
  // Of runs back to back, as in training, long enough for clock and power to settle.
  double sustained_us = 0;
  double clock_mhz = 0;        // of the SMs in that time, the median SM
  double power_w = 0;          // at its end, by NVML; 0: not known
  uint64_t clock_reasons = 0;  // what held clocks down then: NVML's bits (4: power)
};

// Times `run`, which starts work on the stream it is given.
Timing time_gpu(const std::function<void(Stream)>& run);
// Times per run of two kinds of work, each back to back for a while and by turns, so that clock and
// warmth are the same for both.
struct Pair {
  double run_us = 0, other_us = 0;
};
Pair time_by_turns(const std::function<void(Stream)>& run,
                   const std::function<void(Stream)>& other);
// The median of single runs while blocks that do nothing but run hold `sms` SMs, one each.
double time_beside_spinner(const std::function<void(Stream)>& run, int sms);

struct Device {
  std::string name, driver;
  int sms = 0;
  double copy_bytes_per_second = 0;  // of a device-to-device copy, read and written bytes together
};
Device measure_device();

}  // namespace rehearse::kernels::gpu
