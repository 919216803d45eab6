#pragma once
// Pipeline schedules: for every pipeline rank, the cells it runs in one step, in order.
// Sources: 1F1B and interleaved 1F1B, Narayanan et al. 2021 (arXiv 2104.04473, section 2.2); ZB1P,
// Qi et al. 2023 (zero-bubble, H1); DualPipe, DeepSeek-V3 technical report section 3.2.1 and figure
// 5; DualPipeV, its "cut in half" (Qi et al. 2025, published with DualPipe's source).

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

// REQUIRES: what check_schedule demands. n: micro-batches per step of one data-parallel rank.
RankSchedule one_f_one_b(int64_t pp, int64_t n, int64_t rank);
RankSchedule zb1p(int64_t pp, int64_t n, int64_t rank);
RankSchedule dualpipe(int64_t pp, int64_t n, int64_t rank);
// chunks: stages per rank. Virtual micro-batches go in groups of pp through each chunk in turn.
RankSchedule interleaved(int64_t pp, int64_t chunks, int64_t n, int64_t rank);
// Half a DualPipe of twice the ranks, folded: rank r does what rank r there does, the two
// directions being the two legs of every micro-batch's way down the ranks and back.
RankSchedule dualpipev(int64_t pp, int64_t n, int64_t rank);
RankSchedule build_schedule(const Layout& layout, int64_t n, int64_t rank);

// Forward passes alone, for validation, on the stages that `kind` places on each rank.
RankSchedule forward_only(const Layout& layout, int64_t n);

// What `kind` demands of the number of stages and micro-batches; empty when they suit it, otherwise
// a sentence that says what would be right.
std::string check_micro_batches(ScheduleKind kind, int64_t pp, int64_t n);
std::string check_stages(ScheduleKind kind, int64_t pp);

// The bubble's closed formula at chunk granularity (report, table 2), in the unit of the costs:
// f, b, w: forward, whole backward and weight part of a chunk; fb: an overlapped pair.
struct ChunkCosts {
  double f = 1;
  double b = 2;
  double w = 1;
  double fb = 3;
};
// Of a chunk: interleaved 1F1B's is 1/chunks of a rank's layers. layout.pp counts ranks.
double bubble_formula(const Layout& layout, ChunkCosts costs);
std::string bubble_formula_text(ScheduleKind kind);

// The most micro-batches whose activations `schedule` holds at once: a micro-batch holds them from
// its forward until its weight gradients are done.
int64_t peak_micro_batches(const RankSchedule& schedule);
// The same, counting micro-batches of one direction only.
int64_t peak_micro_batches(const RankSchedule& schedule, int32_t direction);
// The table 2 value of the most loaded rank, where the step has as many micro-batches; interleaved
// 1F1B's counts chunks' (Narayanan et al. 2021, section 2.2).
int64_t peak_micro_batches_formula(const Layout& layout);
std::string peak_micro_batches_formula_text(ScheduleKind kind);
// Stages that a rank holds, of which the model has layout.stages(): table 2's "parameters per
// device" where that is pp.
std::string parameters_formula_text(ScheduleKind kind);

// "F0.3", "B1.12", "Bi1.12", "W1.12", "F0.3&B1.12": kind, direction, index.
std::string to_string(const Cell& cell);

}  // namespace rehearse
