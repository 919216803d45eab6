#pragma once
// How ranks share a model: world = PP x DP x CP x TP, and EP x ETP x EDP = DP x CP x TP: the ranks
// of a stage share out its experts (EP), each expert's matrices (ETP), and hold copies (EDP), as in
// Megatron-LM. All arithmetic of ranks stands here: a data rank is a rank's place in its stage: TP
// counts fastest, then CP, then DP; of experts ETP fastest, then EP. So groups of TP, and of EP
// where ETP is 1, are runs of neighbours. Global rank r sits on device r, nodes and rails one after
// the other; RankOrder says which data rank of which pipeline rank it is.

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "base/integers.h"
#include "plan/schedules.h"

namespace rehearse {

// What a rank sends to the experts of its tokens, and how.
enum class Dispatcher : uint8_t {
  kTwoHop,     // a token once to each node, from there to its ranks (DeepEP; report, section 3.2.2)
  kAllToAll,   // a row per token and expert, straight to the expert's rank (NCCL's all-to-all)
  kAllGather,  // every token to every rank of the EP group
};
inline constexpr NameTable kDispatchers{
    std::to_array<Named<Dispatcher>>({{Dispatcher::kTwoHop, "two_hop"},
                                      {Dispatcher::kAllToAll, "all_to_all"},
                                      {Dispatcher::kAllGather, "all_gather"}})};
static_assert(kDispatchers.complete());

// How ranks that share a sequence come by each other's keys and values.
enum class ContextKind : uint8_t {
  kGather,  // all of them, before the core
  kRing,    // passed on from rank to rank while the core works on what has come
};
inline constexpr NameTable kContextKinds{std::to_array<Named<ContextKind>>(
    {{ContextKind::kGather, "gather"}, {ContextKind::kRing, "ring"}})};
static_assert(kContextKinds.complete());

// What counts faster among global ranks: a stage's data ranks, or the pipeline. Megatron-LM's names
// (its option --use-tp-pp-dp-mapping is the second).
enum class RankOrder : uint8_t {
  kDataFirst,      // a stage's ranks are neighbours: their sums and all-to-alls stay close
  kPipelineFirst,  // an island of each stage in turn: pipeline messages stay close
};
inline constexpr NameTable kRankOrders{std::to_array<Named<RankOrder>>(
    {{RankOrder::kDataFirst, "tp-cp-ep-dp-pp"}, {RankOrder::kPipelineFirst, "tp-cp-ep-pp-dp"}})};
static_assert(kRankOrders.complete());

// The members of a group within a stage: `size` data ranks, `stride` apart.
struct RankGroup {
  int64_t stride = 1, size = 1;
  int64_t block() const { return stride * size; }
  int64_t first(int64_t data_rank) const {
    return data_rank / block() * block() + data_rank % stride;
  }
  int64_t index(int64_t data_rank) const { return data_rank / stride % size; }
  int64_t member(int64_t first, int64_t index) const { return first + index * stride; }
};

// A place in the world: pipeline rank and place in the stage.
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
  int64_t cp = 1;
  int64_t etp = 1;
  RankOrder rank_order = RankOrder::kDataFirst;
  ScheduleKind schedule = ScheduleKind::k1F1B;
  int64_t chunks = 2;  // per rank, of interleaved 1F1B
  // 0: every replica updates all its weights; 1: each updates its shard; 2: and holds its shard of
  // the gradients alone, 3: and of the weights.
  int64_t zero_stage = 1;
  bool sequence_parallel = true;  // TP ranks share tokens where they do not share matrices
  ContextKind context = ContextKind::kGather;
  Dispatcher dispatcher = Dispatcher::kTwoHop;
  bool overlap_grad_reduce = false;  // layer by layer behind the last backward, not at the end
  bool overlap_p2p = true;           // pipeline messages travel beside the next cell
  bool overlap_all_to_all = false;   // 1F1B whose F and B are one cell, two micro-batches in flight
  std::vector<int64_t> layers_per_stage;  // one entry per stage, first stage first

  // Of what no cluster holds, as many as can be counted (plan/legal.h refuses them).
  int64_t world() const { return saturating_product(pp, stage_ranks()); }
  int64_t stage_ranks() const { return saturating_product(saturating_product(dp, cp), tp); }
  // Ranks that share a micro-batch's tokens between matrices.
  int64_t token_ranks() const { return cp * (sequence_parallel ? tp : 1); }

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
  // Data ranks of a stage that are neighbours among global ranks, then come another stage's.
  int64_t run() const { return rank_order == RankOrder::kDataFirst ? stage_ranks() : island(); }
  int64_t rank_of(Place p) const { return rank_of(p.pp_rank, p.data_rank); }
  int64_t rank_of(int64_t pp_rank, int64_t data_rank) const {
    const int64_t n = run();
    return (data_rank / n * pp + pp_rank) * n + data_rank % n;
  }
  Place place_of(int64_t rank) const {
    const int64_t n = run();
    return {static_cast<int32_t>(rank / n % pp),
            static_cast<int32_t>(rank / (n * pp) * n + rank % n)};
  }
  RankGroup tensor_group() const { return {1, tp}; }
  RankGroup context_group() const { return {tp, cp}; }
  RankGroup expert_tensor_group() const { return {1, etp}; }
  RankGroup expert_group() const { return {etp, ep}; }
  // The ranks that hold the same dense weights; the same experts.
  RankGroup replica_group() const { return {tp, dp * cp}; }
  RankGroup expert_replica_group() const { return {ep * etp, stage_ranks() / (ep * etp)}; }
  // Data ranks among which every group lies whole that acts within cells.
  int64_t island() const { return std::lcm(tp * cp, ep * etp); }
  // EP groups of a stage, and where in them a data rank is.
  int64_t expert_groups() const { return stage_ranks() / ep; }
  int64_t expert_group_of(int64_t data_rank) const {
    return data_rank / (ep * etp) * etp + data_rank % etp;
  }
  int64_t expert_index_of(int64_t data_rank) const { return expert_group().index(data_rank); }
  int64_t first_of_expert_group(int64_t data_rank) const { return expert_group().first(data_rank); }
  int64_t first_of_group(int64_t group) const { return group / etp * (ep * etp) + group % etp; }
  // Ranks that hold a stage's dense weights, and those that hold the same experts.
  int64_t replicas() const { return copies() * dp * cp; }
  int64_t expert_replicas() const { return copies() * (stage_ranks() / (ep * etp)); }
  // Experts of one rank.
  int64_t experts_per_rank(int64_t experts) const { return experts / ep; }

  bool operator==(const Layout&) const = default;
};

// "PP16 DP128 EP64", and TP, CP, ETP where they are more than one.
std::string ranks_text(const Layout& layout);

// `layers` spread over `stages` as evenly as they go, the longer stages in the middle, away from
// the embedding's and the head's extra work.
std::vector<int64_t> even_layers(int64_t layers, int64_t stages);

}  // namespace rehearse
