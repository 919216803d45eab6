#pragma once
// How ranks share a model: world = PP x DP x TP. DP counts all data-parallel ranks of a stage; EP
// divides DP. Global rank = pipeline rank x DP + data rank, so EP groups are runs of neighbours.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rehearse {

enum class ScheduleKind : uint8_t { k1F1B, kInterleaved, kZB1P, kDualPipe, kDualPipeV };

std::string_view name_of(ScheduleKind kind);

struct Layout {
  int64_t pp = 1;
  int64_t dp = 1;
  int64_t ep = 1;
  int64_t tp = 1;
  ScheduleKind schedule = ScheduleKind::k1F1B;
  int64_t chunks = 2;      // per rank, of kInterleaved
  int64_t zero_stage = 1;  // 0: every replica updates all its weights; 1: each updates its shard
  std::vector<int64_t> layers_per_stage;  // one entry per stage, first stage first

  int64_t world() const { return pp * dp * tp; }
  // Stages that a rank holds, numbered from 0 as the `direction` of its cells and ops: the two
  // directions of DualPipe, the two legs of DualPipeV's way, the chunks of interleaved 1F1B.
  int64_t slots() const {
    if (schedule == ScheduleKind::kInterleaved) return chunks;
    return schedule == ScheduleKind::kDualPipe || schedule == ScheduleKind::kDualPipeV ? 2 : 1;
  }
  // Ranks of one pipeline that hold the same stage: DualPipe sends micro-batches through from both
  // ends.
  int64_t copies() const { return schedule == ScheduleKind::kDualPipe ? 2 : 1; }
  int64_t stages() const { return pp * slots() / copies(); }
  // The stage in a slot of a pipeline rank.
  int64_t stage_of(int64_t pp_rank, int64_t slot) const {
    if (schedule == ScheduleKind::kInterleaved) return slot * pp + pp_rank;
    return slot == 0 ? pp_rank : stages() - 1 - pp_rank;
  }
  // The slot in which a micro-batch meets `stage` that was in `slot` before.
  int64_t slot_of(int64_t stage, int64_t slot) const {
    return schedule == ScheduleKind::kDualPipe ? slot : stage / pp;
  }
  // The rank that holds `stage` in `slot`.
  int64_t pp_rank_of(int64_t stage, int64_t slot) const {
    if (schedule == ScheduleKind::kInterleaved) return stage % pp;
    return slot == 0 ? stage : stages() - 1 - stage;
  }
  int64_t first_layer(int64_t stage) const {
    int64_t first = 0;
    for (int64_t s = 0; s < stage; ++s) first += layers_per_stage[static_cast<size_t>(s)];
    return first;
  }
  bool operator==(const Layout&) const = default;
  // The stage that holds `layer`. REQUIRES: a layer of the model.
  int64_t stage_of_layer(int64_t layer) const {
    int64_t stage = 0;
    while (layer >= first_layer(stage + 1)) ++stage;
    return stage;
  }
};

// `layers` spread over `stages` as evenly as they go, the longer stages in the middle, away from
// the embedding's and the head's extra work.
std::vector<int64_t> even_layers(int64_t layers, int64_t stages);

}  // namespace rehearse
