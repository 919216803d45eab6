#pragma once
// Pipeline schedules: for every pipeline rank, the cells it runs in one step, in order. Where each
// comes from: plan/schedules.h.

#include <cstdint>
#include <string>
#include <vector>

#include "plan/layout.h"

namespace rehearse {

enum class CellKind : uint8_t {
  kForward,         // F
  kBackward,        // B: the whole backward
  kBackwardInput,   // Bi: its input part; a W follows later
  kBackwardWeight,  // W: the weight part of an earlier Bi
  kOverlapped,      // F&B: the forward of one micro-batch beside the backward of another
};

// One micro-batch on its way, in one of the rank's stages (`direction`, Layout::slots). DualPipe's
// micro-batches of direction 0 enter at pipeline rank 0, those of direction 1 at the last rank, and
// are numbered through: direction 0 has the first half.
struct MicroBatch {
  int32_t direction = 0;
  int32_t index = 0;
  bool operator==(const MicroBatch&) const = default;
};

struct Cell {
  CellKind kind = CellKind::kForward;
  MicroBatch forward;   // of F and F&B
  MicroBatch backward;  // of B, Bi, W and F&B
  bool has_forward() const { return kind == CellKind::kForward || kind == CellKind::kOverlapped; }
  bool has_backward() const { return kind != CellKind::kForward; }
  bool operator==(const Cell&) const = default;
};

using RankSchedule = std::vector<Cell>;

// REQUIRES: what facts_of(schedule) demands. n: micro-batches per step of one data-parallel rank.
// overlapped: F and B are one cell, so that one's all-to-alls run beside the other's computation;
// for that each rank runs further ahead, as interleaved 1F1B does.
RankSchedule one_f_one_b(int64_t pp, int64_t n, int64_t rank, bool overlapped = false);
RankSchedule zb1p(int64_t pp, int64_t n, int64_t rank);
RankSchedule dualpipe(int64_t pp, int64_t n, int64_t rank);
// chunks: stages per rank. Virtual micro-batches go in groups of pp through each chunk in turn.
RankSchedule interleaved(
    int64_t pp, int64_t chunks, int64_t n, int64_t rank, bool overlapped = false);
// Half a DualPipe of twice the ranks, folded: rank r does what rank r there does, the two
// directions being the two legs of every micro-batch's way down the ranks and back.
RankSchedule dualpipev(int64_t pp, int64_t n, int64_t rank);
RankSchedule build_schedule(const Layout& layout, int64_t n, int64_t rank);

// Forward passes alone, for validation, on the stages that the layout places on each rank.
RankSchedule forward_only(const Layout& layout, int64_t n);

// The most micro-batches whose activations `schedule` holds at once: a micro-batch holds them from
// its forward until its weight gradients are done.
int64_t peak_micro_batches(const RankSchedule& schedule);
// What a micro-batch holds: from its forward until its backward is over, beside that while its
// backward runs, from a backward without weight gradients (Bi) until these, and beside that while
// such a backward ends.
struct Held {
  double kept = 0, backward = 0, deferred = 0, ending = 0;
};
// How many micro-batches of each direction are held at one moment of a schedule.
struct HeldMoment {
  std::vector<int64_t> kept, deferred;
  int64_t backward = -1;  // the direction whose backward runs; none: -1
  int64_t ending = -1;    // whose backward without weight gradients ends, counted as deferred
  int64_t cell = -1;      // the cell that runs
};
// The moments at which a schedule may hold most, whatever a micro-batch of each of `directions`
// holds: of those that hold no more of anything than another there is none.
std::vector<HeldMoment> held_moments(const RankSchedule& schedule, size_t directions);
double held_at(const HeldMoment& moment, const std::vector<Held>& sizes);
std::string_view name_of(CellKind kind);  // "F", "B", "Bi", "W", "F&B"

// "F0.3", "B1.12", "Bi1.12", "W1.12", "F0.3&B1.12": kind, direction, index.
std::string to_string(const Cell& cell);

}  // namespace rehearse
