#include "runtime/run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
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
  // For hang reports: the op each lane has come to, none before and after the step, and whether it
  // is at work on it.
  std::array<std::atomic<std::optional<int32_t>>, kLanes> current{};
  std::array<std::atomic<bool>, kLanes> working{};
};

// Progress is looked at so often per hang timeout, and the step given up one look early: a report
// comes within the stated time and at most a twentieth before it.
constexpr int kLooks = 20;

// The ops of local ranks in an order in which nothing comes before what it waits for, those of a
// collective one after the other: lanes in their order, a collective where all its local members
// are the next of their lanes.
class EnqueueOrder {
 public:
  EnqueueOrder(const Program& program, std::span<const Place> local) : program_(program) {
    local_.resize(static_cast<size_t>(program.layout().world()), 0);
    done_.resize(static_cast<size_t>(program.global_size()), 0);
    for (const Place& place : local) local_[static_cast<size_t>(program.global_rank(place))] = 1;
    for (const Place& place : local) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto ops = program.lane(place.pp_rank, static_cast<Lane>(lane));
        if (!ops.empty()) lanes_.push_back({place.data_rank, ops, 0});
      }
    }
  }

  std::vector<OpId> ops() {
    std::vector<OpId> order;
    for (bool moved = true; moved;) {
      moved = false;
      for (LaneState& lane : lanes_) {
        while (lane.next < lane.ops.size()) {
          const OpId id = program_.global_id(lane.ops[lane.next], lane.data_rank);
          if (!take(id, order)) break;
          moved = true;
        }
      }
    }
    for (const LaneState& lane : lanes_) {
      CHECK(lane.next == lane.ops.size())
          << "no order for " << to_string(program_.ops()[static_cast<size_t>(lane.ops[lane.next])]);
    }
    return order;
  }

 private:
  struct LaneState {
    int32_t data_rank = 0;
    std::span<const int32_t> ops;
    size_t next = 0;
  };

  bool is_local(OpId id) const {
    return local_[static_cast<size_t>(program_.global_rank(id))] != 0;
  }
  LaneState& lane_of(OpId id) {
    const Op& op = program_.op(id);
    const auto ops = program_.lane(op.pp_rank, op.lane);
    const auto found = std::find_if(lanes_.begin(), lanes_.end(), [&](const LaneState& lane) {
      return lane.data_rank == program_.data_rank(id) && lane.ops.data() == ops.data();
    });
    return *found;
  }
  bool ready(OpId id) {
    const LaneState& lane = lane_of(id);
    if (lane.next == lane.ops.size() || lane.ops[lane.next] != program_.op(id).id) return false;
    for (const int32_t d : program_.dependencies(program_.op(id).id)) {
      const OpId dependency = program_.global_id(d, program_.data_rank(id));
      if (is_local(dependency) && done_[static_cast<size_t>(dependency)] == 0) return false;
    }
    return true;
  }
  // Takes the op, with all of its collective, where they are ready.
  bool take(OpId id, std::vector<OpId>& order) {
    std::vector<OpId> together = {id};
    if (program_.op(id).group != Group::kNone) {
      together.clear();
      for (const OpId member : program_.collective(id)) {
        if (is_local(member)) together.push_back(member);
      }
    }
    for (const OpId member : together) {
      if (!ready(member)) return false;
    }
    for (const OpId member : together) {
      ++lane_of(member).next;
      done_[static_cast<size_t>(member)] = 1;
      order.push_back(member);
    }
    return true;
  }

  const Program& program_;
  std::vector<char> local_;  // by global rank
  std::vector<char> done_;   // by op
  std::vector<LaneState> lanes_;
};

}  // namespace

struct Workers::State {
  State(const Program& p, Device& d, RunOptions options)
      : program(p), device(d), no_progress(options.no_progress), local(std::move(options.local)) {
    ranks.resize(static_cast<size_t>(p.layout().pp * p.replicas()));
    if (local.empty()) {
      for (size_t r = 0; r < ranks.size(); ++r)
        local.push_back(p.layout().place_of(static_cast<int64_t>(r)));
    }
    for (const Place& place : local) {
      ranks[static_cast<size_t>(p.global_rank(place))] = std::make_unique<RankProgress>();
    }
    if (one_thread()) order = EnqueueOrder(p, local).ops();
  }

  const Program& program;
  Device& device;
  const Duration no_progress;
  std::vector<Place> local;
  std::vector<std::unique_ptr<RankProgress>> ranks;  // by global rank; null: on another process
  std::vector<OpId> order;                           // where one thread enqueues
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

  bool one_thread() const { return device.enqueuing() == Enqueuing::kOneThread; }

  // Null for a rank of another process.
  RankProgress* progress(int64_t rank) { return ranks[static_cast<size_t>(rank)].get(); }
  RankProgress& progress(Place place) {
    RankProgress* rank = progress(program.global_rank(place));
    CHECK(rank != nullptr) << "rank " << program.global_rank(place) << " is on another process";
    return *rank;
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

  void run_lane(Place place, Lane lane) {
    const auto [pp_rank, data_rank] = place;
    RankProgress& rank = progress(place);
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
      device.enqueue({op, data_rank, program.global_id(id, data_rank)},
                     [&] { span.begin = now(); });
      span.end = now();
      timeline.spans[static_cast<size_t>(program.global_id(id, data_rank))] = span;
      finish(rank, id);
      working = false;
      ++ops_done;
    }
    current = std::nullopt;
  }

  void enqueue_all() {
    std::vector<char> enqueued(static_cast<size_t>(program.global_size()), 0);
    for (const OpId id : order) {
      if (failed) throw RunAborted();
      const Op& op = program.op(id);
      const int32_t data_rank = program.data_rank(id);
      auto& current = progress({op.pp_rank, data_rank}).current[static_cast<size_t>(op.lane)];
      current = op.id;
      for (const int32_t d : program.dependencies(op.id)) {
        const OpId dependency = program.global_id(d, data_rank);
        if (progress(program.global_rank(dependency)) == nullptr) continue;
        // What nobody has recorded yet would be waited for by nobody.
        CHECK(enqueued[static_cast<size_t>(dependency)] != 0)
            << to_string(op) << " before " << to_string(program.op(dependency));
        device.wait({op, data_rank, id}, dependency);
      }
      device.enqueue({op, data_rank, id}, [] {});
      enqueued[static_cast<size_t>(id)] = 1;
      current = std::nullopt;
      ++ops_done;
    }
    device.end_step(timeline);
  }

  // What `id` of `data_rank`, at which a lane stands, waits for.
  std::string waits_for(int32_t id, int32_t data_rank, bool at_work) {
    const Op& op = program.ops()[static_cast<size_t>(id)];
    if (!at_work) {
      RankProgress& rank = progress({op.pp_rank, data_rank});
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
      const int64_t sender = program.global_rank({*op.peer, data_rank});
      return fmt::format("waits for rank {}{} to send",
                         sender,
                         progress(sender) == nullptr ? ", on another process," : "");
    }
    if (op.group == Group::kNone) return "at work, does not end";
    return waits_for_members(program.global_id(id, data_rank));
  }

  // Of a collective's members only the local ones' state is known.
  std::string waits_for_members(OpId id) {
    std::string absent, elsewhere;
    for (const OpId member : program.collective(id)) {
      const Op& theirs = program.op(member);
      const int64_t rank_number = program.global_rank(member);
      RankProgress* rank = progress(rank_number);
      if (rank == nullptr) {
        elsewhere += fmt::format(" {}", rank_number);
        continue;
      }
      const auto lane = static_cast<size_t>(theirs.lane);
      const std::lock_guard lock(rank->mutex);
      const bool there = rank->done[static_cast<size_t>(theirs.id)] ||
                         (rank->current[lane].load() == theirs.id && rank->working[lane]);
      if (!there) absent += fmt::format(" {}", rank_number);
    }
    if (elsewhere.empty()) {
      return absent.empty() ? "at work, does not end" : "waits for rank" + absent + " to join";
    }
    return (absent.empty() ? "at work, does not end" : "waits for rank" + absent + " to join") +
           ("; on another process, unknown: rank" + elsewhere);
  }

  // What an op waits for that has begun on a device where work is done later.
  std::string on_device(OpId id) {
    std::string absent;
    if (program.op(id).group != Group::kNone) {
      for (const OpId member : program.collective(id)) {
        if (!device.has_begun(member)) absent += fmt::format(" {}", program.global_rank(member));
      }
    }
    return absent.empty() ? "at work on the device, does not end"
                          : "waits for rank" + absent + " to join";
  }

  std::string hang_report() {
    std::string report =
        fmt::format("no op has ended for {}; step {}:", to_string(no_progress), step - 1);
    for (const OpId id : device.under_way()) {
      report += fmt::format("\n  rank {} lane {}: {} {}",
                            program.global_rank(id),
                            name_of(program.op(id).lane),
                            to_string(program.op(id)),
                            on_device(id));
    }
    for (const Place& place : local) {
      RankProgress& rank = progress(place);
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const std::optional<int32_t> id = rank.current[lane];
        if (!id) continue;
        report += fmt::format("\n  rank {} lane {}: {} {}",
                              program.global_rank(place),
                              name_of(static_cast<Lane>(lane)),
                              to_string(program.ops()[static_cast<size_t>(*id)]),
                              waits_for(*id, place.data_rank, rank.working[lane]));
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
    for (const Place& place : local) {
      RankProgress& rank = progress(place);
      const std::lock_guard lock(rank.mutex);
      for (auto& w : rank.wake) w.notify_all();
    }
  }

  void work(const std::function<void()>& step_of_this_thread) {
    for (int64_t next = 1;; ++next) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || step >= next; });
        if (stop) return;
      }
      try {
        step_of_this_thread();
      } catch (...) {
        // RunAborted comes after the failure that caused it, which is kept already, unless that was
        // another process's.
        fail(std::current_exception());
      }
      const std::lock_guard lock(mutex);
      if (--still_working == 0) changed.notify_all();
    }
  }
};

Workers::Workers(const Program& program, Device& device, RunOptions options)
    : state_(std::make_unique<State>(program, device, std::move(options))) {
  State* const s = state_.get();
  if (s->one_thread()) {
    s->threads.emplace_back([s] { s->work([s] { s->enqueue_all(); }); });
    return;
  }
  for (const Place& place : s->local) {
    for (int l = 0; l < kLanes; ++l) {
      const auto lane = static_cast<Lane>(l);
      if (program.lane(place.pp_rank, lane).empty()) continue;
      s->threads.emplace_back([=] { s->work([=] { s->run_lane(place, lane); }); });
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
  for (const Place& place : s.local) {
    RankProgress& rank = s.progress(place);
    rank.done.assign(s.program.ops().size(), 0);
    for (auto& current : rank.current) current = std::nullopt;
  }
  std::unique_lock lock(s.mutex);
  s.still_working = static_cast<int64_t>(s.threads.size());
  s.step_begin = Clock::now();
  ++s.step;
  s.changed.notify_all();
  const auto ended = [&] { return s.still_working == 0; };
  const auto limit = std::chrono::nanoseconds(s.no_progress.picoseconds() / 1000);
  const auto look = limit / kLooks;
  const auto progress = [&] { return s.ops_done + s.device.ended(); };
  int64_t seen = progress();
  auto moved = Clock::now();
  while (!s.changed.wait_for(lock, look, ended)) {
    if (const int64_t now = progress(); now != seen) {
      seen = now;
      moved = Clock::now();
    }
    if (s.failed || Clock::now() - moved < limit - look) continue;
    lock.unlock();
    s.fail(std::make_exception_ptr(ScheduleError(s.hang_report())));
    lock.lock();
  }
  if (s.failed) std::rethrow_exception(s.failure);
  if (!s.one_thread()) s.device.end_step(s.timeline);
  return std::move(s.timeline);
}

Timeline run(const Program& program, Device& device) {
  Workers workers(program, device);
  return workers.run_step();
}

}  // namespace rehearse
