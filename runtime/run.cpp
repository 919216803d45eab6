#include "runtime/run.h"

#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "base/errors.h"
#include "runtime/communicators/communicator.h"

namespace rehearse {
namespace {

using Clock = std::chrono::steady_clock;

// One rank's progress: which of its ops are done, and who sleeps until one is.
struct RankProgress {
  std::mutex mutex;
  std::vector<char> done;  // by op id of the replica
  std::array<std::condition_variable, kLanes> wake;
  std::array<int32_t, kLanes> waiting_for{};  // op id, where the lane sleeps
  std::array<bool, kLanes> sleeping{};
  // For hang reports: the op each lane has come to, and whether it is at work on it.
  std::array<std::atomic<int32_t>, kLanes> current{};
  std::array<std::atomic<bool>, kLanes> working{};
};

constexpr int32_t kFinished = -1;

}  // namespace

struct Workers::State {
  State(const Program& p, Device& d, Duration limit)
      : program(p),
        device(d),
        no_progress(limit),
        ranks(static_cast<size_t>(p.layout().pp * p.replicas())) {}

  const Program& program;
  Device& device;
  const Duration no_progress;
  std::vector<RankProgress> ranks;
  std::atomic<int64_t> ops_done = 0;
  Timeline timeline;
  Clock::time_point step_begin;

  std::mutex mutex;
  std::condition_variable changed;
  int64_t step = 0;           // steps started
  int64_t still_working = 0;  // lanes in this step
  bool stop = false;
  std::atomic<bool> failed = false;
  std::exception_ptr failure;
  std::vector<std::thread> threads;

  Duration now() const {
    return Duration::nanoseconds(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - step_begin).count());
  }

  RankProgress& progress(int32_t pp_rank, int32_t data_rank) {
    return ranks[static_cast<size_t>(program.global_rank({pp_rank, data_rank}))];
  }

  void wait_for(RankProgress& rank, int lane, int32_t dependency) {
    const auto l = static_cast<size_t>(lane);
    std::unique_lock lock(rank.mutex);
    while (!rank.done[static_cast<size_t>(dependency)]) {
      if (failed) throw RunAborted();
      rank.waiting_for[l] = dependency;
      rank.sleeping[l] = true;
      rank.wake[l].wait(lock);
      rank.sleeping[l] = false;
    }
  }

  void finish(RankProgress& rank, int32_t id) {
    const std::lock_guard lock(rank.mutex);
    rank.done[static_cast<size_t>(id)] = 1;
    for (size_t l = 0; l < kLanes; ++l) {
      if (rank.sleeping[l] && rank.waiting_for[l] == id) rank.wake[l].notify_one();
    }
  }

  void run_lane(int32_t pp_rank, int32_t data_rank, Lane lane) {
    RankProgress& rank = progress(pp_rank, data_rank);
    auto& current = rank.current[static_cast<size_t>(lane)];
    auto& working = rank.working[static_cast<size_t>(lane)];
    for (const int32_t id : program.lane(pp_rank, lane)) {
      current = id;
      const Op& op = program.ops()[static_cast<size_t>(id)];
      for (const int32_t d : program.dependencies(id)) {
        if (program.ops()[static_cast<size_t>(d)].pp_rank == pp_rank) {
          wait_for(rank, static_cast<int>(lane), d);
        }
      }
      if (failed) throw RunAborted();
      working = true;
      Span span;
      span.begin = now();
      device.run_op(op, data_rank, [&] { span.begin = now(); });
      span.end = now();
      timeline.spans[static_cast<size_t>(program.global_id(id, data_rank))] = span;
      finish(rank, id);
      working = false;
      ++ops_done;
    }
    current = kFinished;
  }

  // What `id` of `data_rank`, at which a lane stands, waits for.
  std::string waits_for(int32_t id, int32_t data_rank, bool at_work) {
    const Op& op = program.ops()[static_cast<size_t>(id)];
    if (!at_work) {
      RankProgress& rank = progress(op.pp_rank, data_rank);
      const std::lock_guard lock(rank.mutex);
      for (const int32_t d : program.dependencies(id)) {
        const Op& dependency = program.ops()[static_cast<size_t>(d)];
        if (dependency.pp_rank == op.pp_rank && !rank.done[static_cast<size_t>(d)]) {
          return fmt::format("waits for {} of its own rank", to_string(dependency));
        }
      }
      return "about to start";
    }
    if (op.kind == OpKind::kRecv) {
      return fmt::format("waits for rank {} to send", program.global_rank({*op.peer, data_rank}));
    }
    std::string absent;
    if (op.group != Group::kNone) {
      for (const OpId member : program.collective(program.global_id(id, data_rank))) {
        const Op& theirs = program.op(member);
        RankProgress& rank = progress(theirs.pp_rank, program.data_rank(member));
        const auto lane = static_cast<size_t>(theirs.lane);
        const std::lock_guard lock(rank.mutex);
        const bool there = rank.done[static_cast<size_t>(theirs.id)] ||
                           (rank.current[lane] == theirs.id && rank.working[lane]);
        if (!there) absent += fmt::format(" {}", program.global_rank(member));
      }
    }
    return absent.empty() ? "at work, does not end" : "waits for rank" + absent + " to join";
  }

  std::string hang_report() {
    std::string report =
        fmt::format("no op has ended for {}; step {}:", to_string(no_progress), step - 1);
    for (int32_t r = 0; r < program.layout().pp; ++r) {
      for (int32_t d = 0; d < program.replicas(); ++d) {
        RankProgress& rank = progress(r, d);
        for (size_t lane = 0; lane < kLanes; ++lane) {
          if (program.lane(r, static_cast<Lane>(lane)).empty()) continue;
          const int32_t id = rank.current[lane];
          if (id == kFinished) continue;
          report += fmt::format("\n  rank {} lane {}: {} {}",
                                program.global_rank({r, d}),
                                name_of(static_cast<Lane>(lane)),
                                to_string(program.ops()[static_cast<size_t>(id)]),
                                waits_for(id, d, rank.working[lane]));
        }
      }
    }
    return report;
  }

  // Keeps the first failure and wakes everybody, so that all lanes end.
  void fail(std::exception_ptr error) {
    {
      const std::lock_guard lock(mutex);
      if (failed) return;
      failure = std::move(error);
      failed = true;
    }
    device.abort();
    for (RankProgress& rank : ranks) {
      const std::lock_guard lock(rank.mutex);
      for (auto& w : rank.wake) w.notify_all();
    }
  }

  void work(int32_t pp_rank, int32_t data_rank, Lane lane) {
    for (int64_t next = 1;; ++next) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || step >= next; });
        if (stop) return;
      }
      try {
        run_lane(pp_rank, data_rank, lane);
      } catch (const RunAborted&) {
        // The failure that caused it is kept already.
      } catch (...) {
        fail(std::current_exception());
      }
      const std::lock_guard lock(mutex);
      if (--still_working == 0) changed.notify_all();
    }
  }
};

Workers::Workers(const Program& program, Device& device, Duration no_progress)
    : state_(std::make_unique<State>(program, device, no_progress)) {
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    for (int32_t d = 0; d < program.replicas(); ++d) {
      for (int lane = 0; lane < kLanes; ++lane) {
        if (program.lane(r, static_cast<Lane>(lane)).empty()) continue;
        state_->threads.emplace_back(
            [s = state_.get(), r, d, lane] { s->work(r, d, static_cast<Lane>(lane)); });
      }
    }
  }
}

Workers::~Workers() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  for (std::thread& t : state_->threads) t.join();
}

Timeline Workers::run_step() {
  State& s = *state_;
  CHECK(!s.failed) << "a step after a failed one";
  s.timeline = {.source = "measured", .spans = {}};
  s.timeline.spans.resize(static_cast<size_t>(s.program.global_size()));
  for (RankProgress& rank : s.ranks) {
    rank.done.assign(s.program.ops().size(), 0);
    for (auto& current : rank.current) current = kFinished;
  }
  std::unique_lock lock(s.mutex);
  s.still_working = static_cast<int64_t>(s.threads.size());
  s.step_begin = Clock::now();
  ++s.step;
  s.changed.notify_all();
  const auto ended = [&] { return s.still_working == 0; };
  // Looked at twenty times per limit, and given up one look early: within the stated time.
  const auto limit = std::chrono::nanoseconds(s.no_progress.picoseconds() / 1000);
  const auto look = limit / 20;
  int64_t seen = s.ops_done;
  auto moved = Clock::now();
  while (!s.changed.wait_for(lock, look, ended)) {
    if (s.ops_done != seen) {
      seen = s.ops_done;
      moved = Clock::now();
    }
    if (s.failed || Clock::now() - moved < limit - look) continue;
    lock.unlock();
    s.fail(std::make_exception_ptr(ScheduleError(s.hang_report())));
    lock.lock();
  }
  if (s.failed) std::rethrow_exception(s.failure);
  return std::move(s.timeline);
}

Timeline run(const Program& program, Device& device) {
  Workers workers(program, device);
  return workers.run_step();
}

}  // namespace rehearse
