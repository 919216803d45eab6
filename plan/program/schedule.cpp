#include "plan/program/schedule.h"

#include <algorithm>
#include <array>
#include <deque>

#include <fmt/format.h>

#include "base/errors.h"

namespace rehearse {
namespace {

// Appends cells while it numbers each direction's micro-batches and queues deferred weight parts.
class Cells {
 public:
  explicit Cells(int64_t n_per_direction) : per_direction_(n_per_direction) {}

  void forward(int direction) {
    cells_.push_back({.kind = CellKind::kForward, .forward = next(forwards_, direction)});
  }
  void backward(int direction) {
    cells_.push_back({.kind = CellKind::kBackward, .backward = next(backwards_, direction)});
  }
  void backward_input(int direction) {
    const MicroBatch m = next(backwards_, direction);
    deferred_.push_back(m);
    cells_.push_back({.kind = CellKind::kBackwardInput, .backward = m});
  }
  void weight() {
    CHECK(!deferred_.empty()) << "a W without an earlier Bi";
    cells_.push_back({.kind = CellKind::kBackwardWeight, .backward = deferred_.front()});
    deferred_.pop_front();
  }
  void overlapped(int forward_direction, int backward_direction) {
    const MicroBatch f = next(forwards_, forward_direction);
    const MicroBatch b = next(backwards_, backward_direction);
    cells_.push_back({.kind = CellKind::kOverlapped, .forward = f, .backward = b});
  }
  bool has_deferred() const { return !deferred_.empty(); }
  RankSchedule take() { return std::move(cells_); }

 private:
  MicroBatch next(std::array<int64_t, 2>& counters, int direction) {
    const int64_t k = counters[static_cast<size_t>(direction)]++;
    return {.direction = direction, .index = static_cast<int32_t>(direction * per_direction_ + k)};
  }

  int64_t per_direction_;
  std::array<int64_t, 2> forwards_{};
  std::array<int64_t, 2> backwards_{};
  std::deque<MicroBatch> deferred_;
  RankSchedule cells_;
};

}  // namespace

RankSchedule one_f_one_b(int64_t pp, int64_t n, int64_t rank, bool overlapped) {
  Cells cells(n);
  // A pair's B is of a micro-batch whose F was in an earlier cell, here and on all later ranks: one
  // more cell there and back for each of them.
  const int64_t after = pp - 1 - rank;
  const int64_t warmup = std::min(overlapped ? 2 * after + 1 : after, n);
  for (int64_t i = 0; i < warmup; ++i) cells.forward(0);
  for (int64_t i = warmup; i < n; ++i) {
    if (overlapped) {
      cells.overlapped(0, 0);
      continue;
    }
    cells.forward(0);
    cells.backward(0);
  }
  for (int64_t i = 0; i < warmup; ++i) cells.backward(0);
  return cells.take();
}

RankSchedule zb1p(int64_t pp, int64_t n, int64_t rank) {
  Cells cells(n);
  const int64_t warmup = std::min(pp - 1 - rank, n);
  for (int64_t i = 0; i < warmup; ++i) cells.forward(0);
  for (int64_t i = 0; i < n; ++i) {
    if (warmup + i < n) cells.forward(0);
    cells.backward_input(0);
    if (i >= rank) cells.weight();
  }
  while (cells.has_deferred()) cells.weight();
  return cells.take();
}

RankSchedule dualpipe(int64_t pp, int64_t n, int64_t rank) {
  // Steps 1 to 8 as the report's figure 5 shows them. `near` is the direction that enters at the
  // end of the pipeline nearer to this rank.
  Cells cells(n / 2);
  const int64_t half = pp / 2;
  const int64_t depth = std::min(rank, pp - 1 - rank);  // distance from the nearer end
  const int near = rank < half ? 0 : 1;
  const int far = 1 - near;
  const bool middle = depth == half - 1;

  for (int64_t i = 0; i < 2 * (half - depth - 1); ++i) cells.forward(near);  // 1
  for (int64_t i = 0; i < depth + 1; ++i) {                                  // 2
    cells.forward(near);
    cells.forward(far);
  }
  for (int64_t i = 0; i < half - depth - 1; ++i) {  // 3
    cells.backward_input(far);
    cells.weight();
    cells.forward(far);
  }
  for (int64_t i = 0; i < n / 2 - pp + depth + 1; ++i) {  // 4
    if (i == 0 && middle) {
      cells.forward(near);
      cells.backward(far);
    } else {
      cells.overlapped(near, far);
    }
    cells.overlapped(far, near);
  }
  for (int64_t i = 0; i < half - depth - 1; ++i) {  // 5
    cells.backward(far);
    cells.overlapped(far, near);
  }
  for (int64_t i = 0; i < 2 * (depth + 1); ++i) {  // 6
    const int direction = i % 2 == 0 ? far : near;
    if (i < depth + 1) {
      cells.backward(direction);
    } else {
      cells.backward_input(direction);
    }
  }
  for (int64_t i = 0; i < half - depth - 1; ++i) {  // 7
    cells.weight();
    cells.backward_input(near);
  }
  for (int64_t i = 0; i < depth + 1; ++i) cells.weight();  // 8
  CHECK(!cells.has_deferred()) << "DualPipe left a W behind on rank " << rank;
  return cells.take();
}

RankSchedule interleaved(int64_t pp, int64_t chunks, int64_t n, int64_t rank, bool overlapped) {
  const int64_t total = n * chunks;
  // The k-th forward or backward of a rank: groups of pp micro-batches pass all chunks in turn.
  const auto at = [&](int64_t k, bool backward) {
    const int64_t within = k % (pp * chunks);
    const int64_t chunk = within / pp;
    return MicroBatch{.direction = static_cast<int32_t>(backward ? chunks - 1 - chunk : chunk),
                      .index = static_cast<int32_t>(k / (pp * chunks) * pp + within % pp)};
  };
  RankSchedule cells;
  const auto forward = [&](int64_t k) {
    cells.push_back({.kind = CellKind::kForward, .forward = at(k, false)});
  };
  const auto backward = [&](int64_t k) {
    cells.push_back({.kind = CellKind::kBackward, .backward = at(k, true)});
  };
  // A micro-batch comes back to the rank after it has been through all later ranks, and for the
  // last chunk's sake all earlier chunks.
  const int64_t warmup =
      std::min(total, 2 * (pp - 1 - rank) + (chunks - 1) * pp + (overlapped ? 1 : 0));
  for (int64_t k = 0; k < warmup; ++k) forward(k);
  for (int64_t k = warmup; k < total; ++k) {
    if (overlapped) {
      cells.push_back({.kind = CellKind::kOverlapped,
                       .forward = at(k, false),
                       .backward = at(k - warmup, true)});
      continue;
    }
    forward(k);
    backward(k - warmup);
  }
  for (int64_t k = total - warmup; k < total; ++k) backward(k);
  return cells;
}

RankSchedule dualpipev(int64_t pp, int64_t n, int64_t rank) {
  RankSchedule cells = dualpipe(2 * pp, 2 * n, rank);
  const auto renumber = [&](MicroBatch& m) { m.index -= static_cast<int32_t>(m.direction * n); };
  for (Cell& c : cells) {
    if (c.has_forward()) renumber(c.forward);
    if (c.has_backward()) renumber(c.backward);
  }
  return cells;
}

RankSchedule build_schedule(const Layout& layout, int64_t n, int64_t rank) {
  switch (layout.schedule) {
    case ScheduleKind::k1F1B:
      return one_f_one_b(layout.pp, n, rank, layout.overlap_all_to_all);
    case ScheduleKind::kInterleaved:
      return interleaved(layout.pp, layout.chunks, n, rank, layout.overlap_all_to_all);
    case ScheduleKind::kZB1P:
      return zb1p(layout.pp, n, rank);
    case ScheduleKind::kDualPipe:
      return dualpipe(layout.pp, n, rank);
    case ScheduleKind::kDualPipeV:
      return dualpipev(layout.pp, n, rank);
  }
  CHECK(false) << "schedule " << static_cast<int>(layout.schedule);
}

RankSchedule forward_only(const Layout& layout, int64_t n) {
  Cells cells(n / layout.copies());
  RankSchedule list;
  if (layout.copies() == 2) {
    for (int64_t i = 0; i < n / 2; ++i) {
      for (int d = 0; d < 2; ++d) cells.forward(d);
    }
    return cells.take();
  }
  for (int32_t i = 0; i < n; ++i) {
    for (int32_t slot = 0; slot < layout.slots(); ++slot) {
      list.push_back({.kind = CellKind::kForward, .forward = {.direction = slot, .index = i}});
    }
  }
  return list;
}

std::vector<HeldMoment> held_moments(const RankSchedule& schedule, size_t directions) {
  std::vector<HeldMoment> most;
  HeldMoment now{.kept = std::vector<int64_t>(directions, 0),
                 .deferred = std::vector<int64_t>(directions, 0)};
  // Whether b holds at least as much of everything as a.
  const auto within = [&](const HeldMoment& a, const HeldMoment& b) {
    for (size_t d = 0; d < directions; ++d) {
      if (a.kept[d] > b.kept[d] || a.deferred[d] > b.deferred[d]) return false;
    }
    return (a.backward < 0 || a.backward == b.backward) && (a.ending < 0 || a.ending == b.ending);
  };
  const auto note = [&](int64_t backward, int64_t ending) {
    now.backward = backward;
    now.ending = ending;
    for (const HeldMoment& m : most) {
      if (within(now, m)) return;
    }
    std::erase_if(most, [&](const HeldMoment& m) { return within(m, now); });
    most.push_back(now);
  };
  for (const Cell& c : schedule) {
    ++now.cell;
    if (c.has_forward()) ++now.kept[static_cast<size_t>(c.forward.direction)];
    if (!c.has_backward()) {
      note(-1, -1);
      continue;
    }
    const auto d = static_cast<size_t>(c.backward.direction);
    if (c.kind == CellKind::kBackwardWeight) {
      --now.deferred[d];
      continue;
    }
    note(c.backward.direction, -1);
    --now.kept[d];
    if (c.kind != CellKind::kBackwardInput) continue;
    ++now.deferred[d];
    note(-1, c.backward.direction);
  }
  return most;
}

double held_at(const HeldMoment& m, const std::vector<Held>& sizes) {
  double sum = m.backward < 0 ? 0 : sizes[static_cast<size_t>(m.backward)].backward;
  if (m.ending >= 0) sum += sizes[static_cast<size_t>(m.ending)].ending;
  for (size_t d = 0; d < sizes.size(); ++d) {
    sum += static_cast<double>(m.kept[d]) * sizes[d].kept +
           static_cast<double>(m.deferred[d]) * sizes[d].deferred;
  }
  return sum;
}

int64_t peak_micro_batches(const RankSchedule& schedule) {
  int32_t directions = 1;
  for (const Cell& c : schedule) {
    if (c.has_forward()) directions = std::max(directions, c.forward.direction + 1);
  }
  const std::vector<Held> one(static_cast<size_t>(directions), {1, 0, 1});
  double most = 0;
  for (const HeldMoment& m : held_moments(schedule, one.size())) {
    most = std::max(most, held_at(m, one));
  }
  return static_cast<int64_t>(most);
}

std::string_view name_of(CellKind kind) {
  static constexpr NameTable kNames{
      std::to_array<Named<CellKind>>({{CellKind::kForward, "F"},
                                      {CellKind::kBackward, "B"},
                                      {CellKind::kBackwardInput, "Bi"},
                                      {CellKind::kBackwardWeight, "W"},
                                      {CellKind::kOverlapped, "F&B"}})};
  static_assert(kNames.complete());
  return kNames[kind];
}

std::string to_string(const Cell& cell) {
  const auto name = [](const MicroBatch& m) { return fmt::format("{}.{}", m.direction, m.index); };
  switch (cell.kind) {
    case CellKind::kForward:
      return "F" + name(cell.forward);
    case CellKind::kBackward:
      return "B" + name(cell.backward);
    case CellKind::kBackwardInput:
      return "Bi" + name(cell.backward);
    case CellKind::kBackwardWeight:
      return "W" + name(cell.backward);
    case CellKind::kOverlapped:
      return "F" + name(cell.forward) + "&B" + name(cell.backward);
  }
  CHECK(false) << "cell kind " << static_cast<int>(cell.kind);
}

}  // namespace rehearse
