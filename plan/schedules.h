#pragma once
// The pipeline schedules by name: how micro-batches travel through the ranks under each, what it
// demands, and its closed formulas. What ranks do, cell by cell: plan/program/schedule.h.
// Sources: 1F1B and interleaved 1F1B, Narayanan et al. 2021 (arXiv 2104.04473, section 2.2); ZB1P,
// Qi et al. 2023 (zero-bubble, H1); DualPipe, DeepSeek-V3 technical report section 3.2.1 and table
// 2; DualPipeV, its "cut in half" (Qi et al. 2025, published with DualPipe's source).

#include <cstdint>
#include <string>
#include <string_view>

#include "base/names.h"

namespace rehearse {

enum class ScheduleKind : uint8_t { k1F1B, kInterleaved, kZB1P, kDualPipe, kDualPipeV };

inline constexpr NameTable kSchedules{std::to_array<Named<ScheduleKind>>({
    {ScheduleKind::k1F1B, "1f1b"},
    {ScheduleKind::kInterleaved, "interleaved-1f1b"},
    {ScheduleKind::kZB1P, "zb1p"},
    {ScheduleKind::kDualPipe, "dualpipe"},
    {ScheduleKind::kDualPipeV, "dualpipev"},
})};
static_assert(kSchedules.complete());

// How a micro-batch goes through the ranks, which decides what stages each of them holds.
enum class Way : uint8_t {
  kOnce,          // from the first rank to the last: a stage per rank
  kRoundAgain,    // from the last on to the first, once per chunk
  kFromBothEnds,  // half of them the other way: every stage on two ranks
  kThereAndBack,  // and back again: two stages per rank
};

// The unit costs of a chunk: forward, whole backward, weight part, overlapped pair.
struct ChunkCosts {
  double f = 1;
  double b = 2;
  double w = 1;
  double fb = 3;
};

struct ScheduleFacts {
  ScheduleKind kind = ScheduleKind::k1F1B;
  Way way = Way::kOnce;
  // What it demands of pp pipeline ranks, and of n micro-batches on them: empty when they suit it,
  // otherwise a sentence that says what would be right.
  std::string (*check_ranks)(int64_t pp) = nullptr;
  std::string (*check_micro_batches)(int64_t pp, int64_t n) = nullptr;
  // The bubble at chunk granularity (report, table 2), in the unit of the costs; of interleaved
  // 1F1B, a chunk is 1/chunks of a rank's layers.
  double (*bubble)(double pp, const ChunkCosts& costs) = nullptr;
  std::string_view bubble_text;
  // The most micro-batches whose activations a rank holds at once, where the step has as many
  // (report, table 2); interleaved 1F1B's counts chunks' (Narayanan et al. 2021, section 2.2).
  int64_t (*peak_micro_batches)(int64_t pp, int64_t chunks) = nullptr;
  std::string_view peak_text;
  // Stages that a rank holds, of those the model has: table 2's "parameters per device".
  std::string_view parameters_text;
};
// overlapped: of Layout::overlap_all_to_all, where F and B are one cell.
const ScheduleFacts& facts_of(ScheduleKind kind, bool overlapped = false);

inline std::string_view name_of(ScheduleKind kind) {
  return kSchedules[kind];
}

}  // namespace rehearse
