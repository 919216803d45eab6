#pragma once
// simulate: gives each op of a plan's Program a cost and moves a clock.

#include <functional>
#include <optional>

#include "plan/program/stand_ins.h"
#include "plan/program/timeline.h"
#include "sim/network/link_load.h"
#include "sim/price/price.h"

namespace rehearse {

enum class Keep : uint8_t { kSummary, kRanks, kAll };

struct ReplayedRouting;  // sim/expert_load.h

// None but `variation`, `replay` and `level_routes` changes a result.
struct SimulateOptions {
  CostVariation variation;
  Keep keep = Keep::kAll;                   // spans: none, those of `ranks`, or all
  std::vector<int64_t> ranks;               // global
  bool link_load = false;                   // of `ranks`; clusters of GPUs
  const ReplayedRouting* replay = nullptr;  // instead of the plan's expert load
  // Clusters of GPUs:
  bool memoise = true;  // identical all-to-alls that nothing disturbs are worked out once
  bool fold = false;    // data ranks that provably do the same are simulated once
  // With fold: where ranks differ in how many switches are between them, all are taken to be as far
  // from each other as the farthest, so that they fold. A little longer than what is exact.
  bool level_routes = false;
  int32_t threads = 1;  // EP groups that share no link run side by side until a step's end
  std::function<void(int64_t ops_done)> progress;  // called now and then
};

// All-to-alls of a step on a cluster of GPUs, by EP group.
struct ExchangeCounts {
  int64_t alone = 0;       // that began with their links to themselves
  int64_t remembered = 0;  // of those: answered from an earlier, equal one
  int64_t disturbed = 0;   // that shared links from their beginning, or were joined under way
};

struct Prediction {
  Summary summary;
  Timeline timeline;  // Keep::kAll
  OpSpans spans;      // Keep::kRanks, by id
  CostSources sources;
  ExchangeCounts exchanges;
  LinkLoad link_load;
  int64_t simulated_ops = 0;
  StandIns ranks{1, 1};  // simulated: all, in islands that could run side by side, unless folded
  // The rank that was simulated for `rank`: itself, unless data ranks were folded.
  int64_t stand_in(const Layout& layout, int64_t rank) const {
    const Place p = layout.place_of(rank);
    return layout.rank_of(p.pp_rank, ranks.data_rank(ranks.slot(p.data_rank)));
  }
  std::string not_folded;  // why several data ranks were simulated where folding was asked for
};

// One step of `plan`'s `program`, every rank. calibration: none prices work by what flops and bytes
// allow. Throws ScheduleError, naming every stuck rank, when the Program cannot run to its end, and
// as make_price.
Prediction simulate(const Plan& plan,
                    const Program& program,
                    const std::optional<Calibration>& calibration,
                    const SimulateOptions& options = {});

// Costs given by hand, ops costing nothing else: the setting of the bubble formulas, in which a
// chunk's F, Bi and W each take `unit`, an overlapped pair three, and communication nothing.
Timeline simulate_unit_costs(const Program& program, Duration unit);

// The kernel calls of every distinct op of a plan: what `calibrate` measures.
std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program);

}  // namespace rehearse
