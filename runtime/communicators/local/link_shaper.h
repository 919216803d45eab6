#pragma once
// Links that take their time: transfers of an emulated cluster share the bandwidth of the ports
// they cross max-min fairly, on the wall's clock, and arrive a latency later. Nobody computes
// meanwhile.
//
// A port is one direction of one device's node link or NIC. The mechanism is a program of its own,
// not the simulator's, so that comparing the two means something.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "plan/cluster.h"

namespace rehearse {

class LinkShaper {
 public:
  // ranks: rank r sits on device r.
  LinkShaper(const Cluster& cluster, int64_t ranks);
  ~LinkShaper();  // transfers under way are dropped
  LinkShaper(const LinkShaper&) = delete;
  LinkShaper& operator=(const LinkShaper&) = delete;

  // Calls `delivered` (from a thread of its own) when `size` bytes have reached `to`; at once when
  // the ranks share memory.
  void transfer(int64_t from, int64_t to, Bytes size, std::function<void()> delivered);

  // Bytes that have entered the link from one rank to another.
  std::map<std::pair<int64_t, int64_t>, int64_t> counts() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Flow {
    size_t out = 0, in = 0;  // ports
    double left = 0;         // bytes
    double rate = 0;         // bytes per second
    bool rising = false;     // while rates are worked out: not settled yet
    Duration latency;
    std::function<void()> delivered;
  };

  void run();
  void share();
  void advance(Clock::time_point to);

  const Cluster& cluster_;
  int64_t ranks_;
  std::chrono::microseconds awake_before_;  // the end of a wait
  std::vector<double> capacity_;  // by port: node out, node in, network out, network in, per rank
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Flow> flows_;
  std::multimap<Clock::time_point, std::function<void()>> arriving_;
  std::map<std::pair<int64_t, int64_t>, int64_t> counts_;
  Clock::time_point now_ = Clock::now();  // up to which flows_ are advanced
  int64_t changes_ = 0;                   // transfers begun
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace rehearse
