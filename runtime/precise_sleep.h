#pragma once
// Sleeping that ends on time: a sleeping thread wakes 50 to 200 us late on a virtual machine, which
// an emulated cluster's millisecond ops would show. The last stretch is spent awake.

#include <chrono>
#include <thread>

namespace rehearse {

constexpr std::chrono::microseconds kAwakeBefore{200};

inline void sleep_until_exactly(std::chrono::steady_clock::time_point end) {
  std::this_thread::sleep_until(end - kAwakeBefore);
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
}

}  // namespace rehearse
