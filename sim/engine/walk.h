#pragma once
// The simulator's walk over a Program: which op of which lane is next, and when it may start. What
// ops cost is the business of the Work that it is given. The Program is never unrolled: all that is
// kept per rank is where each lane stands.

#include <array>
#include <atomic>
#include <bit>
#include <concepts>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include <fmt/format.h>

#include "base/errors.h"
#include "plan/program/program.h"
#include "plan/program/stand_ins.h"
#include "plan/program/timeline.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/payload.h"
#include "sim/engine/sharing.h"

namespace rehearse {

// Which part of the world is simulated, and how.
struct WalkScope {
  // Islands share nothing but the collectives that end a step, so each has a clock of its own until
  // then and may run on a thread of its own.
  StandIns ranks;
  int32_t threads = 1;
};

// What Work tells: an op takes part in its collective now, or has ended.
struct Happened {
  OpId op = 0;
  bool ended = false;
};

// The clock of one island, and what runs against it.
struct Clock {
  Sharing sharing;
  EventQueue queue;
  Duration now;
  std::vector<Happened> happened;  // by Work, not yet seen by the Walk
  // Whoever puts an event into another island's queue says so.
  void disturbed() const {
    if (changed != nullptr) changed->push_back(island);
  }
  int32_t island = 0;
  std::vector<int32_t>* changed = nullptr;
};

// Which island's next event is first, among many: the lowest of those at one time. A tree of
// winners, so that an island that moves on costs a path to the root.
class FirstIsland {
 public:
  explicit FirstIsland(size_t islands) : size_(std::bit_ceil(islands)), next_(islands, kNever) {
    winners_.assign(2 * size_, 0);
    for (size_t i = 0; i < size_; ++i) winners_[size_ + i] = static_cast<int32_t>(i);
    for (size_t n = size_ - 1; n > 0; --n) winners_[n] = winners_[2 * n];
  }
  // time: of its next event; none where it has none.
  void set(int32_t island, std::optional<int64_t> time) {
    next_[static_cast<size_t>(island)] = time.value_or(kNever);
    for (size_t n = (size_ + static_cast<size_t>(island)) / 2; n > 0; n /= 2) {
      const int32_t a = winners_[2 * n], b = winners_[2 * n + 1];
      winners_[n] = time_of(b) < time_of(a) ? b : a;
    }
  }
  std::optional<int32_t> first() const {
    const int32_t winner = winners_[1];
    return time_of(winner) == kNever ? std::nullopt : std::optional(winner);
  }

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  int64_t time_of(int32_t island) const {
    return static_cast<size_t>(island) < next_.size() ? next_[static_cast<size_t>(island)] : kNever;
  }
  size_t size_;
  std::vector<int64_t> next_;     // by island
  std::vector<int32_t> winners_;  // by node of the tree, the root at 1
};

// What an op does to the clock: one class per kind of cluster.
template <typename W>
concept Work = requires(W work, OpId op, bool woken, uint64_t payload) {
  // Whether the op of a collective begins, for the timeline, when its rank comes to it (a kernel
  // that waits on the device) or when all have.
  { W::kSpanHoldsWaiting } -> std::convertible_to<bool>;
  // What is added before an op starts (woken: its lane slept), and before a collective begins.
  { work.start_delay(op, woken) } -> std::same_as<Duration>;
  { work.meeting_delay(op) } -> std::same_as<Duration>;
  // A rank has come to a collective; true when it has nothing to prepare and takes part at once.
  { work.pack(op) } -> std::same_as<bool>;
  // All members take part (or it is no collective): starts its activities.
  { work.begin(op) } -> std::same_as<void>;
  // What comes back from the clock (sim/engine/payload.h). Like pack and begin it may report what
  // happened to ops.
  { work.event(payload) } -> std::same_as<void>;
  // Little is left to do.
  { work.shrink() } -> std::same_as<void>;
};

// Walks the Program: keeps, per lane, which op is next and whether it runs, and starts an op when
// its dependencies are done and, for a collective, when every member has come to it.
template <Work TheWork>
class Walk {
 public:
  using MakeWork =
      std::function<std::unique_ptr<TheWork>(Clock& clock, int32_t first, int32_t count)>;

  Walk(const Program& program, WalkScope scope, const MakeWork& make_work, TimelineSink& sink)
      : program_(program), ranks_(std::move(scope.ranks)), threads_(scope.threads), sink_(sink) {
    const auto& ops = program.ops();
    slots_.reserve(ops.size());
    places_.resize(ops.size());
    canonical_.resize(ops.size());
    for (const Op& op : ops) {
      slots_.push_back(op.pp_rank * kLanes + static_cast<int32_t>(op.lane));
      canonical_[static_cast<size_t>(op.id)] =
          spans_pipeline(op.group, program.layout())
              ? program.op(program.collective(op.id).front()).id
              : op.id;
    }
    for (int32_t r = 0; r < program.layout().pp; ++r) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto list = program.lane(r, static_cast<Lane>(lane));
        for (size_t i = 0; i < list.size(); ++i) {
          places_[static_cast<size_t>(list[i])] = static_cast<int32_t>(i);
        }
        lists_.push_back(list);
      }
    }
    for (int32_t i = 0; i < ranks_.islands(); ++i) {
      islands_.push_back(std::make_unique<Island>());
      Island& island = *islands_.back();
      island.first = ranks_.first(i);
      island.lanes.resize(lists_.size() * static_cast<size_t>(ranks_.island()));
      island.work = make_work(island.clock, island.first, ranks_.island());
    }
  }

  // Throws ScheduleError, naming every stuck rank, when the Program cannot run to its end.
  void run(const std::function<void(int64_t ops_done)>& progress = {}) {
    progress_ = progress;
    // No collective that ties islands together can begin before each island has come to one.
    const auto run_island = [&](Island& island, bool tells) {
      start_all(island);
      while (!island.clock.queue.empty() && !island.tied) {
        step(island);
        if (island.finished - island.told >= kTellEvery) tell(island, tells);
      }
      tell(island, tells);
      island.clock.sharing.shrink();
      island.clock.queue.shrink();
      island.work->shrink();
    };
    const auto threads =
        std::min<size_t>(static_cast<size_t>(std::max(1, threads_)), islands_.size());
    std::atomic<size_t> next = 0;
    std::exception_ptr failed;
    std::atomic<bool> has_failed = false;
    const auto work_off = [&](bool tells) {
      for (size_t i = next++; i < islands_.size() && !has_failed; i = next++) {
        try {
          run_island(*islands_[i], tells);
        } catch (...) {
          if (!has_failed.exchange(true)) failed = std::current_exception();
        }
      }
    };
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads; ++t) others.emplace_back(work_off, false);
    work_off(true);
    for (std::thread& t : others) t.join();
    if (failed) std::rethrow_exception(failed);
    together_ = true;
    for (auto& island : islands_) {
      for (const OpId id : island->tied_ops) meet(*island, id);
      island->tied_ops = {};
      settle(*island);
    }
    // From here on in the order of time over all islands.
    FirstIsland order(islands_.size());
    std::vector<int32_t> changed;
    for (size_t i = 0; i < islands_.size(); ++i) {
      islands_[i]->clock.island = static_cast<int32_t>(i);
      islands_[i]->clock.changed = &changed;
      changed.push_back(static_cast<int32_t>(i));
    }
    for (;;) {
      for (const int32_t i : changed) {
        const EventQueue& queue = islands_[static_cast<size_t>(i)]->clock.queue;
        order.set(i, queue.empty() ? std::nullopt : std::optional(queue.next().time));
      }
      changed.clear();
      const auto first = order.first();
      if (!first) break;
      Island& island = *islands_[static_cast<size_t>(*first)];
      step(island);
      changed.push_back(*first);
      if (island.finished - island.told >= kTellEvery) tell(island, true);
    }
    int64_t finished = 0;
    for (auto& island : islands_) finished += island->finished;
    if (finished != ranks_.slots() * static_cast<int64_t>(program_.ops().size())) {
      report_stuck();
    }
  }

 private:
  struct LaneState {
    int64_t begin = 0;   // picoseconds; of a collective, until it begins: when the rank came to it
    int64_t waited = 0;  // of the collective at hand, for its members
    int32_t next = 0;    // index in the lane's list
    // At the first member's place: how many have come to a group's collective. TP groups and those
    // that share experts' matrices, with other members, use one lane: a count each.
    std::array<int32_t, 2> came{};
    bool running = false;  // or about to
  };
  struct Island {
    int32_t first = 0;  // data rank
    Clock clock;
    std::unique_ptr<TheWork> work;
    std::vector<LaneState> lanes;  // by lane list x data rank
    std::vector<uint64_t> ended;
    bool tied = false;  // has come to a collective that ties islands together
    std::vector<OpId> tied_ops;
    int64_t finished = 0;
    int64_t told = 0;
  };

  LaneState& lane(Island& island, int32_t slot, int32_t data_rank) {
    return island.lanes[static_cast<size_t>(slot * ranks_.island() + data_rank - island.first)];
  }
  LaneState& lane_of(Island& island, OpId id) {
    return lane(island, slots_[template_of(id)], program_.data_rank(id));
  }
  size_t template_of(OpId id) const {
    return static_cast<size_t>(id % static_cast<OpId>(program_.ops().size()));
  }
  Island& island_of(int32_t data_rank) {
    return *islands_[static_cast<size_t>(ranks_.island_of(data_rank))];
  }

  bool done(Island& island, int32_t op, int32_t data_rank) {
    return lane(island, slots_[static_cast<size_t>(op)], data_rank).next >
           places_[static_cast<size_t>(op)];
  }

  bool ready(Island& island, int32_t op, int32_t data_rank) {
    for (const int32_t d : program_.dependencies(op)) {
      if (!done(island, d, data_rank)) return false;
    }
    return true;
  }

  void start_all(Island& island) {
    for (size_t slot = 0; slot < lists_.size(); ++slot) {
      for (int32_t d = island.first; d < island.first + ranks_.island(); ++d) {
        try_start(island, static_cast<int32_t>(slot), d, false);
      }
    }
    settle(island);
  }

  void step(Island& island) {
    const EventQueue::Event event = island.clock.queue.pop();
    island.clock.now = Duration::picoseconds(event.time);
    island.ended.clear();
    island.clock.sharing.finish(event, island.ended);
    for (const uint64_t ended : island.ended) handle(island, ended);
    settle(island);
  }

  // progress_ is called by one thread.
  void tell(Island& island, bool tells) {
    finished_ += island.finished - island.told;
    island.told = island.finished;
    if (tells && progress_) progress_(finished_);
  }

  // All that follows at once from what happened, and the rates that result.
  void settle(Island& island) {
    Clock& clock = island.clock;
    for (size_t i = 0; i < clock.happened.size(); ++i) {
      const Happened h = clock.happened[i];
      h.ended ? end(island, h.op) : came(island, h.op);
    }
    clock.happened.clear();
    if (clock.queue.empty() || clock.queue.next().time > clock.now.picoseconds()) {
      clock.sharing.update(clock.now, clock.queue);
    }
  }

  // woken: the lane slept and is woken by an op of another lane.
  void try_start(Island& island, int32_t slot, int32_t data_rank, bool woken) {
    LaneState& state = lane(island, slot, data_rank);
    const auto list = lists_[static_cast<size_t>(slot)];
    if (state.running || state.next == static_cast<int32_t>(list.size())) return;
    const int32_t op = list[static_cast<size_t>(state.next)];
    if (!ready(island, op, data_rank)) return;
    state.running = true;
    const OpId id = program_.global_id(op, data_rank);
    after(island, island.work->start_delay(id, woken), id, Owner::kWalkOp);
  }

  using Owner = payload::Owner;

  void after(Island& island, Duration delay, OpId id, Owner step) {
    if (delay == Duration()) {
      take(island, id, step);
    } else {
      Sharing::wait(island.clock.now, delay, island.clock.queue, payload::of_walk(step, id));
    }
  }

  void take(Island& island, OpId id, Owner step) {
    if (step == Owner::kWalkMeeting) {
      LaneState& state = lane_of(island, id);
      const int64_t now = island.clock.now.picoseconds();
      if (program_.op(id).group != Group::kNone) state.waited = now - state.begin;
      state.begin = now;
      island.work->begin(id);
      return;
    }
    if (program_.op(id).group == Group::kNone) {
      take(island, id, Owner::kWalkMeeting);
    } else if (island.work->pack(id)) {
      came(island, id);
    }
  }

  // The collective begins when all members take part.
  void came(Island& island, OpId id) {
    lane_of(island, id).begin = island.clock.now.picoseconds();
    const Op& op = program_.op(id);
    const auto group = group_in_stage(op.group, program_.layout());
    if (!group) {
      if (together_) {
        meet(island, id);
      } else {
        island.tied = true;
        island.tied_ops.push_back(id);
      }
      return;
    }
    // A rank that stands for all of its island is its groups' only member.
    const int32_t data_rank = program_.data_rank(id);
    const auto size = static_cast<int32_t>(ranks_.island() == 1 ? 1 : group->size);
    const auto first = static_cast<int32_t>(size == 1 ? data_rank : group->first(data_rank));
    int32_t& count = lane(island, slots_[static_cast<size_t>(op.id)], first)
                         .came[op.group == Group::kExpertTensor ? 1 : 0];
    if (++count < size) return;
    count = 0;
    for (int32_t i = 0; i < size; ++i) {
      const auto d = static_cast<int32_t>(group->member(first, i));
      const OpId m = program_.global_id(op.id, d);
      after(island, island.work->meeting_delay(m), m, Owner::kWalkMeeting);
    }
  }

  // The lowest data rank that takes part with `data_rank` in a collective over islands.
  int32_t first_of_tied(Group group, int32_t data_rank) const {
    const Layout& l = program_.layout();
    if (group == Group::kWorld) return 0;
    if (group == Group::kEmbeddings) return data_rank;
    const RankGroup of =
        group == Group::kExpertReplicas ? l.expert_replica_group() : l.replica_group();
    return static_cast<int32_t>(of.first(data_rank));
  }

  // A member has come to a collective that ties islands together.
  void meet(Island&, OpId id) {
    const Op& op = program_.op(id);
    const int32_t data_rank = program_.data_rank(id);
    const OpId key = program_.global_id(canonical_[static_cast<size_t>(op.id)],
                                        first_of_tied(op.group, data_rank));
    Meeting& meeting = meetings_[key];
    if (meeting.members.empty()) {
      for (const OpId m : program_.collective(id)) {
        if (ranks_.worked_out(program_.data_rank(m))) meeting.members.push_back(m);
      }
    }
    if (++meeting.came < meeting.members.size()) return;
    const std::vector<OpId> members = std::move(meeting.members);
    meetings_.erase(key);
    // All islands' clocks are at or before the last member's.
    Duration now;
    for (const OpId m : members) {
      const LaneState& state = lane_of(island_of(program_.data_rank(m)), m);
      now = std::max(now, Duration::picoseconds(state.begin));
    }
    for (const OpId m : members) {
      Island& there = island_of(program_.data_rank(m));
      // What it gives rise to is seen at its island's next event, which must not come later.
      Sharing::wait(now,
                    there.work->meeting_delay(m),
                    there.clock.queue,
                    payload::of_walk(Owner::kWalkMeeting, m));
      there.clock.disturbed();
    }
  }

  void handle(Island& island, uint64_t event) {
    const Owner owner = payload::owner(event);
    if (owner == Owner::kWork) {
      island.work->event(event);
    } else {
      take(island, payload::walk_op(event), owner);
    }
  }

  void end(Island& island, OpId id) {
    const size_t op = template_of(id);
    const int32_t data_rank = program_.data_rank(id);
    LaneState& state = lane(island, slots_[op], data_rank);
    const bool exchange = program_.ops()[op].group == Group::kExpertParallel;
    const int64_t wait = exchange ? state.waited : 0;
    const int64_t begin = TheWork::kSpanHoldsWaiting ? state.begin - wait : state.begin;
    sink_.record(id, {Duration::picoseconds(begin), island.clock.now}, Duration::picoseconds(wait));
    state.running = false;
    ++state.next;
    ++island.finished;
    try_start(island, slots_[op], data_rank, false);
    for (const int32_t d : program_.dependents(static_cast<int32_t>(op))) {
      try_start(island, slots_[static_cast<size_t>(d)], data_rank, true);
    }
  }

  [[noreturn]] void report_stuck() {
    std::string stuck;
    for (int32_t rank = 0; rank < program_.layout().pp; ++rank) {
      for (int32_t s = 0; s < ranks_.slots(); ++s) {
        const int32_t d = ranks_.data_rank(s);
        Island& island = island_of(d);
        for (int index = 0; index < kLanes; ++index) {
          const int32_t slot = rank * kLanes + index;
          const auto list = lists_[static_cast<size_t>(slot)];
          const auto at = static_cast<size_t>(lane(island, slot, d).next);
          if (at == list.size()) continue;
          const Op& op = program_.op(list[at]);
          std::string waits = "the other members of its group";
          for (const int32_t dependency : program_.dependencies(op.id)) {
            if (!done(island, dependency, d)) waits = to_string(program_.op(dependency));
          }
          stuck += fmt::format("\n  rank {} lane {}: next {} waits for {}",
                               program_.global_rank({rank, d}),
                               name_of(static_cast<Lane>(index)),
                               to_string(op),
                               waits);
        }
      }
    }
    throw ScheduleError("the simulated step is stuck:" + stuck);
  }

  static constexpr int64_t kTellEvery = 1 << 16;  // ops

  // A collective over islands that some members have come to.
  struct Meeting {
    std::vector<OpId> members;
    size_t came = 0;
  };

  const Program& program_;
  StandIns ranks_;
  int32_t threads_;
  TimelineSink& sink_;
  std::function<void(int64_t)> progress_;
  // Of each op of a replica: its lane's list, its place in it, and the op that stands for its
  // collective.
  std::vector<int32_t> slots_, places_, canonical_;
  std::vector<std::span<const int32_t>> lists_;  // by pipeline rank x kLanes + lane
  std::vector<std::unique_ptr<Island>> islands_;
  std::atomic<int64_t> finished_ = 0;           // ops that were told of
  bool together_ = false;                       // islands are stepped in the order of time
  std::unordered_map<OpId, Meeting> meetings_;  // never iterated
};

}  // namespace rehearse
