#pragma once
// How ranks share a model: world = PP x DP x TP. DP counts all data-parallel ranks of a stage; EP
// divides DP. All arithmetic of ranks stands here: global rank = pipeline rank x DP + data rank, so
// that an EP group is a run of neighbours.

#include <cstdint>
#include <string>
#include <vector>

#include "plan/schedules.h"

namespace rehearse {

// A place in the world: pipeline rank and data-parallel rank.
struct Place {
  int32_t pp_rank = 0;
  int32_t data_rank = 0;
  auto operator<=>(const Place&) const = default;
};

struct Layout {
  int64_t pp = 1;
  int64_t dp = 1;
  int64_t ep = 1;
  int64_t tp = 1;
  ScheduleKind schedule = ScheduleKind::k1F1B;
  int64_t chunks = 2;      // per rank, of interleaved 1F1B
  int64_t zero_stage = 1;  // 0: every replica updates all its weights; 1: each updates its shard
  std::vector<int64_t> layers_per_stage;  // one entry per stage, first stage first

  int64_t world() const { return pp * dp * tp; }

  // --- stages
  Way way() const { return facts_of(schedule).way; }
  // Stages that a rank holds, numbered from 0 as the `direction` of its cells and ops: the two
  // directions of DualPipe, the two legs of DualPipeV's way, the chunks of interleaved 1F1B.
  int64_t slots() const { return way() == Way::kOnce ? 1 : way() == Way::kRoundAgain ? chunks : 2; }
  // Ranks of one pipeline that hold the same stage.
  int64_t copies() const { return way() == Way::kFromBothEnds ? 2 : 1; }
  int64_t stages() const { return pp * slots() / copies(); }
  bool is_last(int64_t stage) const { return stage == stages() - 1; }
  // Whether the embedding and the head stand on the same ranks.
  bool ends_meet() const {
    return pp == 1 || way() == Way::kFromBothEnds || way() == Way::kThereAndBack;
  }
  // The stage in a slot of a pipeline rank.
  int64_t stage_of(int64_t pp_rank, int64_t slot) const {
    if (way() == Way::kRoundAgain) return slot * pp + pp_rank;
    return slot == 0 ? pp_rank : stages() - 1 - pp_rank;
  }
  // The slot in which a micro-batch meets `stage` that was in `slot` before.
  int64_t slot_of(int64_t stage, int64_t slot) const {
    return way() == Way::kFromBothEnds ? slot : stage / pp;
  }
  // The rank that holds `stage` in `slot`.
  int64_t pp_rank_of(int64_t stage, int64_t slot) const {
    if (way() == Way::kRoundAgain) return stage % pp;
    return slot == 0 ? stage : stages() - 1 - stage;
  }

  // --- layers
  int64_t first_layer(int64_t stage) const {
    int64_t first = 0;
    for (int64_t s = 0; s < stage; ++s) first += layers_per_stage[static_cast<size_t>(s)];
    return first;
  }
  int64_t end_layer(int64_t stage) const { return first_layer(stage + 1); }
  // The number behind the last layer's: of the layer in the MTP module.
  int64_t mtp_layer() const { return end_layer(stages() - 1); }
  // The stage that holds a layer; the last one's for those behind it (MTP).
  int64_t stage_of_layer(int64_t layer) const {
    int64_t stage = 0;
    while (!is_last(stage) && end_layer(stage) <= layer) ++stage;
    return stage;
  }

  // --- ranks
  int64_t rank_of(Place p) const { return p.pp_rank * dp + p.data_rank; }
  int64_t rank_of(int64_t pp_rank, int64_t data_rank) const { return pp_rank * dp + data_rank; }
  Place place_of(int64_t rank) const {
    return {static_cast<int32_t>(rank / dp), static_cast<int32_t>(rank % dp)};
  }
  // EP groups of a stage, and where in them a data rank is.
  int64_t expert_groups() const { return dp / ep; }
  int64_t expert_group_of(int64_t data_rank) const { return data_rank / ep; }
  int64_t expert_index_of(int64_t data_rank) const { return data_rank % ep; }
  int64_t first_of_expert_group(int64_t data_rank) const { return data_rank - data_rank % ep; }
  // Ranks that hold a stage's dense weights, and those that hold the same experts.
  int64_t replicas() const { return copies() * dp; }
  int64_t expert_replicas() const { return replicas() / ep; }
  // Experts of one rank.
  int64_t experts_per_rank(int64_t experts) const { return experts / ep; }

  bool operator==(const Layout&) const = default;
};

// `layers` spread over `stages` as evenly as they go, the longer stages in the middle, away from
// the embedding's and the head's extra work.
std::vector<int64_t> even_layers(int64_t layers, int64_t stages);

}  // namespace rehearse
