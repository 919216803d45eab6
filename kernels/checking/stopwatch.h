#pragma once
// Times of GPU work, and the clock the SMs had meanwhile.

#include <cstdint>
#include <functional>

namespace rehearse::kernels::gpu {

struct Timing {
  double median_us = 0;  // of single runs, each with a cold L2
  double spread = 0;     // 90th less 10th percentile, over the median
  // Of runs back to back, as in training, long enough for clock and power to settle.
  double sustained_us = 0;
  double clock_mhz = 0;  // of the SMs in that time, the median SM
};

// Times `run`, which starts work on the default stream. `reset` goes before every single run,
// outside the time.
Timing time_gpu(const std::function<void()>& run, const std::function<void()>& reset);

struct Device {
  int sms = 0;
  double copy_bytes_per_second = 0;  // of a device-to-device copy, read and written bytes together
};
Device measure_device();

}  // namespace rehearse::kernels::gpu
