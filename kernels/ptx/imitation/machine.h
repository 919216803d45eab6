#pragma once
// The imitated GPU: the blocks of one cluster at a time, every thread of them a fiber. A thread
// runs until it has to wait; when all wait and none can go on, the run ends with a report of who
// waits where for what.

#include <array>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include <boost/context/fiber.hpp>

#include "kernels/ptx/imitation/clocks.h"
#include "kernels/ptx/imitation/shared_memory.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels::imitation {

using Where = std::source_location;

inline constexpr int kWarp = 32;
inline constexpr int kWarpGroup = 128;

class Cluster;
struct Block;

// Threads that meet: all that were seen by one before are seen by all after.
struct Meeting {
  const char* what = "";
  int expected = 0;
  int arrived = 0;
  int generation = 0;
  Sight gathering;
  Sight released;
  std::array<float, kWarp> given{};  // shuffles: what lanes gave in this generation
  std::array<float, kWarp> shown{};  // and in the last
};

struct Barrier {
  std::string name;
  uint64_t label = 0;
  int count = 0;
  int pending = 0;    // arrivals
  int64_t bytes = 0;  // expected and not yet come
  uint32_t completed = 0;
  uint16_t agent = 0;   // of the copies that complete on it
  bool fenced = false;  // its initialisation, for copies and other blocks
  uint16_t maker = 0;   // the thread that initialised it
  Sight gathering;
  Sight released;
};

// One wgmma of a warp group.
struct Product {
  uint64_t a = 0, b = 0;
  int n = 0;
  bool accumulate = false;
  int issued = 0;  // threads
  int waited = 0;
  bool done = false;
  Where where;
  std::array<float*, kWarpGroup> sums{};
  std::array<std::vector<float>, kWarpGroup> before;  // where a thread's sums were not in flight
  std::array<Sight, kWarpGroup / kWarp> sight;        // of the warps' threads at issue
};

struct WarpGroup {
  std::vector<std::unique_ptr<Product>> products;  // done ones are freed
  int registers = 0;                               // per thread
  Meeting meeting;                                 // of all its warps, to change them
};

struct Stack {
  const void* bottom = nullptr;
  size_t size = 0;
};

struct Thread {
  int index = 0;  // in its block
  uint16_t agent = 0;
  Block* block = nullptr;
  Sight sight;
  bool finished = false;
  boost::context::fiber fiber;
  boost::context::fiber* scheduler = nullptr;  // to go back to, while it runs
  Stack stack;

  // While it waits:
  std::function<bool()> ready;
  std::function<std::string()> waits_for;
  Where where;

  // wgmma: how many it has issued, where its groups end, what it has waited for.
  int issued = 0;
  std::vector<int> group_ends;
  int waited = 0;
  bool fenced = false;
  // Stores by the copy engine: the agent that reads for it, groups closed, whether one is open.
  uint16_t store_agent = 0;
  uint32_t groups = 0;
  bool group_open = false;
  uint32_t groups_read = 0;
  Where stored;  // the last store

  int warp() const { return index / kWarp; }
  int warp_group() const { return index / kWarpGroup; }
  int lane() const { return index % kWarp; }
};

struct Block {
  Block(int rank_, int index_, int shared_bytes)
      : rank(rank_), index(index_), memory(shared_bytes) {}
  int rank, index;  // in its cluster, in the grid
  SharedMemory memory;
  std::vector<Thread> threads;
  std::map<uint32_t, Barrier> barriers;  // by address
  std::vector<Meeting> warps;
  std::array<Meeting, 16> named;
  std::vector<WarpGroup> warp_groups;
  int free_registers = 0;
};

class Cluster {
 public:
  Cluster(const LaunchShape& shape, int index);
  void run(const std::function<void()>& kernel);

  // Of the thread that runs now; all throw ImitationError outside a kernel.
  static Cluster& current();
  static Thread& self();

  // Returns when ready() holds; the thread's place and waits_for() go into a report of a deadlock.
  void wait_until(std::function<bool()> ready, std::function<std::string()> waits_for, Where where);
  // All `expected` threads of the meeting come; those that do not wait for the others learn nothing
  // of them. orders: what was done before is seen by all after; else no memory is ordered.
  void meet(Meeting& meeting,
            int expected,
            const char* what,
            Where where,
            bool waits = true,
            bool orders = true);
  // Throws ImitationError: place, thread, text.
  [[noreturn]] void fail(const std::string& what, Where where);

  // Checked accesses of a block's shared memory.
  const uint8_t* read(
      Block& block, uint32_t address, uint32_t bytes, const Access& access, Where where);
  uint8_t* write(Block& block, uint32_t address, uint32_t bytes, const Access& access, Where where);
  void look(Block& block, uint32_t address, uint32_t bytes, Where where);
  Access own_access(Where where);

  Barrier& barrier(Block& block, uint32_t address, Where where);
  void complete_if_done(Barrier& barrier);
  uint16_t new_agent(const std::string& name, Where where);
  uint16_t tensor_core_agent(const Block& block, int warp) const;
  std::string name_of(uint16_t agent) const;
  static std::string name_of(const Thread& thread);

  std::vector<std::unique_ptr<Block>> blocks;
  Meeting everyone;
  const LaunchShape shape;
  int agents = 0;  // at most

 private:
  [[noreturn]] void report_deadlock();
  void resume(Thread& thread, const std::function<void()>& kernel);

  std::vector<std::string> extra_agents_;
  std::exception_ptr error_;
  int first_extra_ = 0;
};

// Runs all clusters of a launch, one after the other.
void run_grid(const LaunchShape& shape, const std::function<void()>& kernel);

// The order in which threads take turns follows from this; the same seed, the same run.
void set_schedule_seed(uint64_t seed);

}  // namespace rehearse::kernels::imitation
