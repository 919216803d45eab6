#pragma once
// The simulator's walk over a Program: which op of which lane is next, and when it may start. What
// ops cost is the business of the Work that it is given (sim/simulate.cpp).

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/errors.h"
#include "plan/program.h"
#include "plan/timeline.h"
#include "sim/event_queue.h"
#include "sim/sharing.h"

namespace rehearse {

// What Work tells: an op takes part in its collective now, or has ended.
struct Happened {
  OpId op = 0;
  bool ended = false;
};

// Walks the Program: keeps, per lane, which op is next and whether it runs, and starts an op when
// its dependencies are done and, for a collective, when every member has come to it.
//
// `Work` says what an op does to the clock. pack(now, id): a rank has come to a collective; true
// when it has nothing to prepare and takes part at once. begin(now, id): all members take part (or
// it is no collective): starts its activities. What comes back from the queue goes to event(now,
// payload, happened), which tells the ops that thereby came to take part, or ended. start_delay and
// meeting_delay: what the runtime adds before an op begins. Payloads' two lowest bits are the
// Walk's own.
template <typename Work>
class Walk {
 public:
  Walk(const Program& program, Sharing& sharing, Work& work)
      : program_(program),
        sharing_(sharing),
        work_(work),
        lanes_(static_cast<size_t>(program.layout().pp * program.replicas() * kLanes)),
        done_(static_cast<size_t>(program.global_size()), 0) {
    timeline_.source = "predicted";
    timeline_.spans.resize(static_cast<size_t>(program.global_size()));
  }

  Timeline run(const std::function<void(int64_t ops_done)>& progress = {}) {
    constexpr int64_t kTellEvery = 1 << 16;  // ops
    for (int64_t rank = 0; rank < program_.layout().pp * program_.replicas(); ++rank) {
      for (int lane = 0; lane < kLanes; ++lane) try_start(rank, lane, false);
    }
    sharing_.update(now_, queue_);
    while (!queue_.empty()) {
      const EventQueue::Event event = queue_.pop();
      now_ = Duration::picoseconds(event.time);
      uint64_t payload = 0;
      const int64_t before = finished_;
      if (sharing_.finish(event.payload, payload)) handle(payload);
      if (progress && finished_ / kTellEvery != before / kTellEvery) progress(finished_);
      if (queue_.empty() || queue_.next().time > event.time) sharing_.update(now_, queue_);
    }
    if (finished_ != program_.global_size()) report_stuck();
    return std::move(timeline_);
  }

 private:
  struct LaneState {
    size_t next = 0;       // index in the lane's list
    bool running = false;  // or about to
    bool arrived = false;  // takes part in a collective, waiting for the other members
  };

  LaneState& lane(int64_t rank, int lane) {
    return lanes_[static_cast<size_t>(rank * kLanes + lane)];
  }

  std::optional<OpId> head(int64_t rank, int index) {
    const auto pp_rank = static_cast<int32_t>(rank / program_.replicas());
    const auto data_rank = static_cast<int32_t>(rank % program_.replicas());
    const auto ops = program_.lane(pp_rank, static_cast<Lane>(index));
    const size_t at = lane(rank, index).next;
    if (at == ops.size()) return std::nullopt;
    return program_.global_id(ops[at], data_rank);
  }

  bool ready(OpId id) const {
    const int32_t data_rank = program_.data_rank(id);
    for (const int32_t d : program_.dependencies(program_.op(id).id)) {
      if (!done_[static_cast<size_t>(program_.global_id(d, data_rank))]) return false;
    }
    return true;
  }

  // woken: the lane slept and is woken by an op of another lane.
  void try_start(int64_t rank, int index, bool woken) {
    LaneState& state = lane(rank, index);
    if (state.running) return;
    const auto id = head(rank, index);
    if (!id || !ready(*id)) return;
    state.running = true;
    after(work_.start_delay(*id, woken), *id, Step::kProceed);
  }

  enum class Step : uint64_t { kWork, kProceed, kBegin };  // the payload's lowest bits

  void after(Duration delay, OpId id, Step step) {
    if (delay == Duration()) {
      take(id, step);
      return;
    }
    const auto work = static_cast<double>(delay.picoseconds());
    sharing_.start(
        now_, work, 1, {}, (static_cast<uint64_t>(id) << 2) | static_cast<uint64_t>(step));
  }

  void take(OpId id, Step step) {
    if (step == Step::kBegin) {
      timeline_.spans[static_cast<size_t>(id)].begin = now_;
      work_.begin(now_, id);
    } else if (program_.op(id).group == Group::kNone) {
      take(id, Step::kBegin);
    } else if (work_.pack(now_, id)) {
      came(id);
    }
  }

  // The collective begins when all members take part.
  void came(OpId id) {
    lane(program_.global_rank(id), static_cast<int>(program_.op(id).lane)).arrived = true;
    const std::vector<OpId> members = program_.collective(id);
    for (const OpId m : members) {
      const int64_t r = program_.global_rank(m);
      const int l = static_cast<int>(program_.op(m).lane);
      if (!lane(r, l).arrived || head(r, l) != m) return;
    }
    for (const OpId m : members) {
      lane(program_.global_rank(m), static_cast<int>(program_.op(m).lane)).arrived = false;
      after(work_.meeting_delay(m), m, Step::kBegin);
    }
  }

  void handle(uint64_t payload) {
    const auto step = static_cast<Step>(payload & 3);
    if (step != Step::kWork) {
      take(static_cast<OpId>(payload >> 2), step);
      return;
    }
    happened_.clear();
    work_.event(now_, payload >> 2, happened_);
    for (const Happened& h : happened_) h.ended ? end(h.op) : came(h.op);
  }

  void end(OpId id) {
    timeline_.spans[static_cast<size_t>(id)].end = now_;
    done_[static_cast<size_t>(id)] = 1;
    ++finished_;
    const Op& op = program_.op(id);
    const int64_t rank = program_.global_rank(id);
    LaneState& state = lane(rank, static_cast<int>(op.lane));
    state.running = false;
    ++state.next;
    try_start(rank, static_cast<int>(op.lane), false);
    const int32_t data_rank = program_.data_rank(id);
    for (const int32_t d : program_.dependents(op.id)) {
      const Op& waiting = program_.ops()[static_cast<size_t>(d)];
      try_start(
          program_.global_rank({waiting.pp_rank, data_rank}), static_cast<int>(waiting.lane), true);
    }
  }

  [[noreturn]] void report_stuck() {
    std::string stuck;
    for (int64_t rank = 0; rank < program_.layout().pp * program_.replicas(); ++rank) {
      for (int index = 0; index < kLanes; ++index) {
        const auto id = head(rank, index);
        if (!id) continue;
        std::string waits = "the other members of its group";
        for (const int32_t d : program_.dependencies(program_.op(*id).id)) {
          const OpId g = program_.global_id(d, program_.data_rank(*id));
          if (!done_[static_cast<size_t>(g)]) waits = to_string(program_.op(g));
        }
        stuck += fmt::format("\n  rank {} lane {}: next {} waits for {}",
                             rank,
                             name_of(static_cast<Lane>(index)),
                             to_string(program_.op(*id)),
                             waits);
      }
    }
    throw ScheduleError("the simulated step is stuck:" + stuck);
  }

  const Program& program_;
  Sharing& sharing_;
  Work& work_;
  EventQueue queue_;
  std::vector<LaneState> lanes_;
  std::vector<char> done_;
  Timeline timeline_;
  Duration now_;
  int64_t finished_ = 0;
  std::vector<Happened> happened_;
};

}  // namespace rehearse
