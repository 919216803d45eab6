#pragma once
// Ranks as threads, for tests of communicators.

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace rehearse {

// Runs work(rank) on a thread per rank.
inline void on_ranks(int64_t count, const std::function<void(int64_t)>& work) {
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < count; ++r) threads.emplace_back([&, r] { work(r); });
  for (std::thread& t : threads) t.join();
}

}  // namespace rehearse
