#pragma once
// A step's time by closed formulas, from the prices of a layer's ops: what a search screens by, and
// a bound below what the simulator can say.

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "plan/program/memory.h"
#include "search/layer_times.h"
#include "search/space.h"
#include "sim/price/price.h"

namespace rehearse {

// Numbers of cells of each kind that a pipeline rank runs, by direction; of pairs by the forward's.
struct CellCounts {
  std::vector<double> forward, backward, backward_input, backward_weight, pair;
};

// What a schedule does on its ranks, for any number of micro-batches.
struct ScheduleShape {
  std::vector<CellCounts> counts;                // by pipeline rank
  std::vector<std::vector<HeldMoment>> moments;  // likewise
  std::vector<std::vector<int64_t>> stages;      // that each rank holds
  int64_t copies = 1;
};

struct Estimate {
  double step = 0;      // seconds
  double bound = 0;     // no simulation of the candidate is shorter
  Bytes need;           // of the most loaded rank
  int64_t fullest = 0;  // that rank
};

class Estimator {
 public:
  // base and calibration must outlive it. imbalance: of memory (MemoryParts).
  Estimator(const Plan& base, const std::optional<Calibration>& calibration, double imbalance = 1);

  // Of candidates that differ from `common` in schedule, chunks, stages and ZeRO alone.
  void begin_block(const Candidate& common);
  // REQUIRES: a candidate of the block.
  Estimate estimate(const Candidate& candidate);

  int64_t blocks_priced() const { return static_cast<int64_t>(blocks_.size()); }

 private:
  using BlockKey = std::
      tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, int, int64_t, int, bool>;
  BlockKey key_of(const Candidate& c, bool pairs) const;
  const BlockTimes& times_of(const Candidate& c, bool pairs);
  BlockTimes price(const Candidate& c, bool pairs);
  const ScheduleShape& shape_of(const Candidate& c);

  // Of candidates that differ in ZeRO alone.
  struct StageTimes {
    double f = 0, b = 0, bi = 0, w = 0, least = 0;
  };
  struct Pipeline {
    ScheduleKind schedule = ScheduleKind::k1F1B;
    int64_t chunks = 0;
    RankOrder rank_order = RankOrder::kDataFirst;
    std::vector<int64_t> layers;
    const ScheduleShape* shape = nullptr;
    const BlockTimes* times = nullptr;
    std::vector<MemoryParts::Stage> stages;
    std::vector<StageTimes> of_stage;  // one micro-batch
    std::vector<RankMemory> ranks;     // but for weights
    double running = 0;                // seconds from the first cell to the last, ZeRO 0 and 1
    double bound = 0;
  };
  void begin_pipeline(const Candidate& c);
  double messages(const Layout& layout, const BlockTimes& times) const;
  double running(const Candidate& c, const std::vector<StageTimes>& of_stage) const;

  const Plan& base_;
  const std::optional<Calibration>& calibration_;
  double imbalance_;
  std::map<BlockKey, BlockTimes> blocks_;
  std::map<std::tuple<ScheduleKind, int64_t, int64_t, int64_t>, ScheduleShape> shapes_;
  // The routing counts of the last block: those that follow often have the same.
  using LoadKey = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, Dispatcher>;
  std::optional<GroupLoad> load_;
  LoadKey load_key_;
  std::optional<MemoryParts> memory_;
  const BlockTimes* alone_ = nullptr;  // of the block, without and with pairs
  const BlockTimes* paired_ = nullptr;
  Pipeline now_;
};

}  // namespace rehearse
