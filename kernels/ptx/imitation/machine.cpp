#include "kernels/ptx/imitation/machine.h"

#include <algorithm>
#include <random>

#include <boost/context/protected_fixedsize_stack.hpp>

#include "kernels/ptx/imitation/global_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace rehearse::kernels::imitation {
namespace {

constexpr size_t kStackBytes = 96 * 1024;
constexpr int kBarrierAgents = 64;
constexpr int kRegisters = 64 * 1024;
uint64_t schedule_seed = 1;

Cluster* running_cluster = nullptr;
Thread* running_thread = nullptr;
// A change of stacks, told to the address sanitizer where there is one: made before, destroyed
// after control has come back.
class StackSwitch {
 public:
#if defined(__SANITIZE_ADDRESS__)
  StackSwitch(const void* bottom, size_t size) {
    __sanitizer_start_switch_fiber(&fake_, bottom, size);
  }
  ~StackSwitch() {
    __sanitizer_finish_switch_fiber(fake_, nullptr, nullptr);
  }
  static void entered(Stack& from) {
    __sanitizer_finish_switch_fiber(nullptr, &from.bottom, &from.size);
  }
  static void leave_for_good(const Stack& to) {
    __sanitizer_start_switch_fiber(nullptr, to.bottom, to.size);
  }

 private:
  void* fake_ = nullptr;
#else
  StackSwitch(const void*, size_t) {}
  ~StackSwitch() {}
  static void entered(Stack&) {}
  static void leave_for_good(const Stack&) {}
#endif
};

Stack scheduler_stack;  // as the fibers found it

// Boost's stacks with a guard page, kept for the next block's threads: to map and protect one takes
// longer than most threads run.
class Stacks {
 public:
  ~Stacks() {
    for (boost::context::stack_context& c : free_) allocator_.deallocate(c);
  }
  boost::context::stack_context take() {
    if (free_.empty()) return allocator_.allocate();
    const boost::context::stack_context c = free_.back();
    free_.pop_back();
    return c;
  }
  void give(const boost::context::stack_context& c) { free_.push_back(c); }

 private:
  boost::context::protected_fixedsize_stack allocator_{kStackBytes};
  std::vector<boost::context::stack_context> free_;
};
thread_local Stacks stacks;

// One of them, telling where it is.
struct KnownStack {
  Stack& known;
  boost::context::stack_context allocate() {
    boost::context::stack_context c = stacks.take();
    known = {static_cast<char*>(c.sp) - c.size, c.size};
#if defined(__SANITIZE_ADDRESS__)
    // Stacks come back at addresses of stacks before, of which marks may be left.
    __asan_unpoison_memory_region(known.bottom, known.size);
#endif
    return c;
  }
  void deallocate(boost::context::stack_context& c) {
    stacks.give(c);
  }
};

std::string place(const Where& where) {
  const std::string path = where.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(where.line());
}

}  // namespace

void set_schedule_seed(uint64_t seed) {
  schedule_seed = seed;
}

Cluster::Cluster(const LaunchShape& launched, int index) : shape(launched) {
  const int threads = shape.threads * shape.cluster;
  const int warps = shape.threads / kWarp;
  first_extra_ = threads + warps * shape.cluster;
  agents = first_extra_ + kBarrierAgents * shape.cluster;
  everyone.gathering = everyone.released = Sight(agents);
  for (int rank = 0; rank < shape.cluster; ++rank) {
    auto block = std::make_unique<Block>(rank, index * shape.cluster + rank, shape.shared_bytes);
    block->threads.resize(static_cast<size_t>(shape.threads));
    for (int t = 0; t < shape.threads; ++t) {
      Thread& thread = block->threads[static_cast<size_t>(t)];
      thread.index = t;
      thread.block = block.get();
      thread.agent = static_cast<uint16_t>(rank * shape.threads + t);
      thread.sight = Sight(agents);
      thread.sight.all[thread.agent] = 1;
    }
    block->warps.resize(static_cast<size_t>(warps));
    for (Meeting& m : block->warps) m.gathering = m.released = Sight(agents);
    for (Meeting& m : block->named) m.gathering = m.released = Sight(agents);
    block->warp_groups.resize(static_cast<size_t>((shape.threads + kWarpGroup - 1) / kWarpGroup));
    const int per_thread = std::min(255, kRegisters / shape.threads) / 8 * 8;
    for (WarpGroup& group : block->warp_groups) {
      group.registers = per_thread;
      group.meeting.gathering = group.meeting.released = Sight(agents);
    }
    block->free_registers = kRegisters - per_thread * shape.threads;
    blocks.push_back(std::move(block));
  }
}

Cluster& Cluster::current() {
  if (!running_cluster) throw ImitationError("an instruction outside a kernel");
  return *running_cluster;
}

Thread& Cluster::self() {
  if (!running_thread) throw ImitationError("an instruction outside a kernel");
  return *running_thread;
}

std::string Cluster::name_of(const Thread& t) {
  return "thread " + std::to_string(t.index) + " of block " + std::to_string(t.block->index);
}

uint16_t Cluster::tensor_core_agent(const Block& block, int warp) const {
  return static_cast<uint16_t>(shape.threads * shape.cluster +
                               block.rank * (shape.threads / kWarp) + warp);
}

std::string Cluster::name_of(uint16_t agent) const {
  const int threads = shape.threads * shape.cluster;
  if (agent < threads) {
    const Block& block = *blocks[static_cast<size_t>(agent / shape.threads)];
    return name_of(block.threads[static_cast<size_t>(agent % shape.threads)]);
  }
  if (agent < first_extra_) {
    return "the tensor core of warp " + std::to_string((agent - threads) % (shape.threads / kWarp));
  }
  return extra_agents_[static_cast<size_t>(agent - first_extra_)];
}

uint16_t Cluster::new_agent(const std::string& name, Where where) {
  if (first_extra_ + static_cast<int>(extra_agents_.size()) >= agents) {
    fail("more barriers and storing threads than the imitation has agents for", where);
  }
  extra_agents_.push_back(name);
  return static_cast<uint16_t>(first_extra_ + static_cast<int>(extra_agents_.size()) - 1);
}

void Cluster::fail(const std::string& what, Where where) {
  throw ImitationError(place(where) + ": " + name_of(self()) + " " + what);
}

Access Cluster::own_access(Where where) {
  Thread& t = self();
  return {{t.agent, t.sight.all[t.agent]}, t.sight, false, where.line()};
}

namespace {
std::string describe(const Cluster& cluster, const SharedMemory::Conflict& c) {
  std::string text = c.what + ": byte " + std::to_string(c.address - SharedMemory::kBase);
  if (c.other.time > 0) {
    text += ", by " + cluster.name_of(c.other.agent) + " in line " + std::to_string(c.other_line);
  }
  return text;
}
}  // namespace

const uint8_t* Cluster::read(
    Block& block, uint32_t address, uint32_t bytes, const Access& access, Where where) {
  try {
    return block.memory.read(address, bytes, access);
  } catch (const SharedMemory::Conflict& c) {
    fail(describe(*this, c), where);
  }
}

uint8_t* Cluster::write(
    Block& block, uint32_t address, uint32_t bytes, const Access& access, Where where) {
  try {
    return block.memory.write(address, bytes, access);
  } catch (const SharedMemory::Conflict& c) {
    fail(describe(*this, c), where);
  }
}

void Cluster::look(Block& block, uint32_t address, uint32_t bytes, Where where) {
  try {
    block.memory.look(address, bytes, own_access(where));
  } catch (const SharedMemory::Conflict& c) {
    fail(describe(*this, c), where);
  }
}

Barrier& Cluster::barrier(Block& block, uint32_t address, Where where) {
  const auto it = block.barriers.find(address);
  if (it == block.barriers.end()) {
    fail("uses an mbarrier at byte " + std::to_string(address - SharedMemory::kBase) +
             " that nobody initialised",
         where);
  }
  return it->second;
}

void Cluster::complete_if_done(Barrier& b) {
  if (b.pending > 0 || b.bytes != 0) return;
  ++b.completed;
  b.pending = b.count;
  b.gathering.all[b.agent] = b.completed;
  b.released = b.gathering;
}

void Cluster::wait_until(std::function<bool()> ready,
                         std::function<std::string()> waits_for,
                         Where where) {
  Thread& t = self();
  while (!ready()) {
    t.ready = ready;
    t.waits_for = waits_for;
    t.where = where;
    {
      const StackSwitch away(scheduler_stack.bottom, scheduler_stack.size);
      *t.scheduler = std::move(*t.scheduler).resume();
    }
    t.ready = nullptr;
    t.waits_for = nullptr;
  }
}

void Cluster::meet(
    Meeting& m, int expected, const char* what, Where where, bool waits, bool orders) {
  Thread& t = self();
  if (m.arrived == 0) {
    m.expected = expected;
    m.what = what;
  }
  if (m.expected != expected || std::string_view(m.what) != what) {
    fail(std::string("comes to ") + what + " for " + std::to_string(expected) +
             " threads, others to " + m.what + " for " + std::to_string(m.expected),
         where);
  }
  if (orders) m.gathering.join(t.sight);
  ++t.sight.all[t.agent];
  const int generation = m.generation;
  if (++m.arrived == expected) {
    m.arrived = 0;
    ++m.generation;
    if (orders) m.released = m.gathering;
    m.shown = m.given;
  }
  if (!waits) return;
  wait_until([&m, generation] { return m.generation != generation; },
             [&m, what] {
               return std::string(what) + ": " + std::to_string(m.arrived) + " of " +
                      std::to_string(m.expected) + " threads came";
             },
             where);
  if (orders) t.sight.join(m.released);
}

// Threads that wait in one place for the same are one line, by the warps they fill.
void Cluster::report_deadlock() {
  std::map<std::string, std::vector<std::string>> waiting;
  std::vector<std::string> order;
  for (const auto& block : blocks) {
    std::string last;
    int first = 0;
    const auto end_range = [&](int end) {
      if (last.empty()) return;
      if (!waiting.contains(last)) order.push_back(last);
      waiting[last].push_back("threads " + std::to_string(first) + " to " +
                              std::to_string(end - 1) + " of block " +
                              std::to_string(block->index));
    };
    for (const Thread& t : block->threads) {
      const std::string why = t.finished ? std::string() : place(t.where) + ": " + t.waits_for();
      if (why != last) {
        end_range(t.index);
        first = t.index;
        last = why;
      }
    }
    end_range(shape.threads);
  }
  std::string text = "deadlock:";
  for (const std::string& why : order) {
    text += "\n  " + why + ":";
    for (const std::string& who : waiting[why]) text += " " + who + ";";
    text.back() = ' ';
  }
  throw ImitationError(text);
}

void Cluster::resume(Thread& thread, const std::function<void()>& kernel) {
  running_thread = &thread;
  if (!thread.fiber) {
    thread.fiber = boost::context::fiber(
        std::allocator_arg,
        KnownStack{thread.stack},
        [this, &thread, &kernel](boost::context::fiber&& scheduler) {
          StackSwitch::entered(scheduler_stack);
          thread.scheduler = &scheduler;
          try {
            kernel();
            if (thread.group_open || thread.groups_read < thread.groups) {
              fail("ends while this store may still read shared memory", thread.stored);
            }
          } catch (const boost::context::detail::forced_unwind&) {
            StackSwitch::leave_for_good(scheduler_stack);
            throw;
          } catch (...) {
            if (!error_) error_ = std::current_exception();
          }
          thread.finished = true;
          StackSwitch::leave_for_good(scheduler_stack);
          return std::move(scheduler);
        });
  }
  {
    const StackSwitch away(thread.stack.bottom, thread.stack.size);
    thread.fiber = std::move(thread.fiber).resume();
  }
  running_thread = nullptr;
}

void Cluster::run(const std::function<void()>& kernel) {
  running_cluster = this;
  std::vector<Thread*> order;
  for (const auto& block : blocks) {
    for (Thread& t : block->threads) order.push_back(&t);
  }
  std::mt19937_64 random(schedule_seed);
  for (bool left = true; left && !error_;) {
    std::shuffle(order.begin(), order.end(), random);
    bool moved = false;
    left = false;
    for (Thread* t : order) {
      if (t->finished) continue;
      if (t->ready && !t->ready()) {
        left = true;
        continue;
      }
      moved = true;
      resume(*t, kernel);
      if (error_) break;
      left = left || !t->finished;
    }
    if (left && !moved && !error_) {
      try {
        report_deadlock();
      } catch (...) {
        error_ = std::current_exception();
      }
    }
  }
  // Fibers that still wait are unwound before what they refer to goes.
  for (const auto& block : blocks) {
    for (Thread& t : block->threads) {
      if (!t.fiber) continue;
      const StackSwitch away(t.stack.bottom, t.stack.size);
      t.fiber = {};
    }
  }
  running_cluster = nullptr;
  running_thread = nullptr;
  if (error_) std::rethrow_exception(error_);
}

void run_grid(const LaunchShape& shape, const std::function<void()>& kernel) {
  if (shape.blocks % shape.cluster != 0 || shape.blocks <= 0 || shape.threads <= 0 ||
      shape.threads % kWarp != 0 || shape.threads > 1024 || shape.shared_bytes > kMaxSharedBytes) {
    throw ImitationError("a launch of " + std::to_string(shape.blocks) + " blocks in clusters of " +
                         std::to_string(shape.cluster) + ", " + std::to_string(shape.threads) +
                         " threads and " + std::to_string(shape.shared_bytes) +
                         " bytes of shared memory");
  }
  GlobalMemory::instance().begin_launch();
  for (int i = 0; i < shape.blocks / shape.cluster; ++i) {
    GlobalMemory::instance().enter_cluster(i);
    Cluster cluster(shape, i);
    cluster.run(kernel);
  }
}

}  // namespace rehearse::kernels::imitation
