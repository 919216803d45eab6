#include "sim/simulate.h"

#include <algorithm>
#include <map>
#include <set>

#include "sim/engine/walk.h"
#include "sim/gpu_work.h"
#include "sim/host_work.h"
#include "sim/price/op_costs.h"

namespace rehearse {
namespace {

// Unit costs: attn and mlp of a chunk's layers share its unit equally, a cell takes it whole.
class UnitWork {
 public:
  static constexpr bool kSpanHoldsWaiting = false;

  UnitWork(const Program& program, Clock& clock, Duration unit)
      : program_(program), clock_(clock), unit_(unit) {}

  Duration start_delay(OpId, bool) const { return {}; }
  Duration meeting_delay(OpId) const { return {}; }
  void shrink() {}
  bool pack(OpId) { return true; }
  void event(uint64_t what) {
    clock_.happened.push_back({static_cast<OpId>(payload::value(what)), true});
  }

  void begin(OpId id) {
    const Op& op = program_.op(id);
    int64_t units = 0;
    int64_t parts = 1;
    if (op.kind == OpKind::kCell) {
      const CellKind kind = program_.schedule(op.pp_rank)[static_cast<size_t>(op.cell)].kind;
      units = kind == CellKind::kOverlapped ? 3 : kind == CellKind::kBackward ? 2 : 1;
    } else if (op.kind == OpKind::kAttn || op.kind == OpKind::kMlp) {
      const bool mtp = *op.layer >= program_.layout().mtp_layer();
      units = mtp ? 0 : 1;
      parts = 2 * program_.layout().layers_per_stage[static_cast<size_t>(op.stage)];
    }
    Sharing::wait(clock_.now,
                  Duration::picoseconds(unit_.picoseconds() * units / parts),
                  clock_.queue,
                  payload::of_work(0, static_cast<uint64_t>(id)));
  }

 private:
  const Program& program_;
  Clock& clock_;
  Duration unit_;
};

// Takes in spans: sums always, the spans themselves as far as they are wanted.
class Recorder : public TimelineSink {
 public:
  Recorder(const Program& program, const SimulateOptions& options, int32_t data_ranks)
      : program_(program), data_ranks_(data_ranks), summary_(program, data_ranks) {
    timeline_.source = "predicted";
    if (options.keep == Keep::kAll) {
      timeline_.spans.resize(static_cast<size_t>(program.global_size()));
    }
    if (options.keep == Keep::kRanks) {
      for (const int64_t rank : options.ranks) chosen_[rank];
    }
  }

  void record(OpId id, const Span& span, Duration waited) override {
    summary_.record(id, span, waited);
    if (!timeline_.spans.empty()) timeline_.spans[static_cast<size_t>(id)] = span;
    if (chosen_.empty()) return;
    const Place here = program_.layout().place_of(program_.global_rank(id));
    for (auto& [rank, spans] : chosen_) {
      // A rank that another stands for did the same.
      const Place wanted = program_.layout().place_of(rank);
      if (wanted.pp_rank != here.pp_rank || wanted.data_rank % data_ranks_ != here.data_rank) {
        continue;
      }
      spans.emplace_back(program_.global_id(program_.op(id).id, wanted.data_rank), span);
    }
  }

  void finish(Prediction& prediction) {
    prediction.summary = summary_.finish();
    const auto ops = static_cast<int64_t>(program_.ops().size());
    for (int64_t i = data_ranks_ * ops; i < static_cast<int64_t>(timeline_.spans.size()); ++i) {
      const int64_t data_rank = i / ops % data_ranks_;
      timeline_.spans[static_cast<size_t>(i)] =
          timeline_.spans[static_cast<size_t>(data_rank * ops + i % ops)];
    }
    prediction.timeline = std::move(timeline_);  // its source alone, where spans are not kept
    for (auto& [rank, spans] : chosen_) {
      prediction.spans.insert(prediction.spans.end(), spans.begin(), spans.end());
    }
    std::sort(prediction.spans.begin(), prediction.spans.end(), [](const auto& a, const auto& b) {
      return a.first < b.first;
    });
  }

 private:
  const Program& program_;
  int32_t data_ranks_;
  SummaryBuilder summary_;
  Timeline timeline_;
  std::map<int64_t, OpSpans> chosen_;  // by rank
};

// The data ranks that must be simulated: one where all do the same, one EP group where all groups
// do, else all.
int32_t ranks_to_simulate(const Plan& plan, const GpuWorld& world, ExpertLoad& load) {
  const auto dp = static_cast<int32_t>(plan.layout.dp);
  const auto ep = static_cast<int32_t>(plan.layout.ep);
  if (!world.groups_alike || !load.uniform()) return dp;
  return world.ranks_alike && load.of(0, 0, 0).symmetric ? 1 : ep;
}

void run_gpus(const Plan& plan,
              const Program& program,
              const OpCosts& costs,
              ExpertLoad& load,
              const SimulateOptions& options,
              Prediction& prediction) {
  const auto dp = static_cast<int32_t>(plan.layout.dp);
  GpuWorld world(plan, program, costs, dp);
  world.memoise = options.memoise;
  if (options.fold) {
    world.data_ranks = ranks_to_simulate(plan, world, load);
    if (world.data_ranks > 1) {
      prediction.not_folded = !world.groups_alike ? world.not_alike
                              : !load.uniform()   ? "expert load differs between groups"
                              : !world.ranks_alike
                                  ? "ranks of an expert-parallel group stand differently"
                                  : "ranks of an expert-parallel group have different loads";
    }
  }
  const auto ep = static_cast<int32_t>(plan.layout.ep);
  const WalkScope scope{
      .data_ranks = world.data_ranks,
      .island = world.shared_links ? world.data_ranks : std::min(ep, world.data_ranks),
      .threads = options.threads};
  prediction.data_ranks = world.data_ranks;
  if (options.link_load) {
    for (const int64_t rank : options.ranks) {
      // A rank that is not simulated has its load from the one that stands for it.
      world.load.choose(prediction.stand_in(plan.layout, rank));
    }
  }
  prediction.islands = scope.data_ranks / scope.island;
  Recorder recorder(program, options, world.data_ranks);
  {
    Walk<GpuWork> walk(
        program,
        scope,
        [&](Clock& clock, int32_t first, int32_t count) {
          return std::make_unique<GpuWork>(world, load, clock, first, count);
        },
        recorder);
    walk.run(options.progress);
    for (const GpuWork* work : world.works) {
      prediction.exchanges.alone += work->lone();
      prediction.exchanges.remembered += work->remembered();
      prediction.exchanges.disturbed += work->disturbed();
    }
  }
  prediction.link_load = std::move(world.load);
  recorder.finish(prediction);
}

}  // namespace

Prediction simulate(const Plan& plan,
                    const Program& program,
                    const std::optional<Calibration>& calibration,
                    const SimulateOptions& options) {
  ExpertLoad load(plan);
  const OpCosts costs(plan, program, calibration, options.variation, load.of(0, 0, 0));
  Prediction prediction;
  if (plan.cluster.of_gpus()) {
    run_gpus(plan, program, costs, load, options, prediction);
  } else {
    const auto dp = static_cast<int32_t>(plan.layout.dp);
    prediction.data_ranks = dp;
    Recorder recorder(program, options, dp);
    const GroupLoad& counts = load.of(0, 0, 0);
    Walk<HostWork> walk(
        program,
        {.data_ranks = dp, .island = dp},
        [&](Clock& clock, int32_t, int32_t) {
          return std::make_unique<HostWork>(plan, program, costs, counts, clock);
        },
        recorder);
    walk.run(options.progress);
    recorder.finish(prediction);
  }
  prediction.sources = costs.sources();
  prediction.simulated_ops = prediction.data_ranks * static_cast<int64_t>(program.ops().size());
  return prediction;
}

std::vector<KernelCall> kernels_of(const Plan& plan, const Program& program) {
  ExpertLoad load(plan);
  const OpWork work(plan);
  std::set<KernelCall> calls;
  for (const Op& op : program.ops()) {
    for (const MemberLoad& member : load.of(0, 0, 0).members) {
      const std::vector<KernelCall> of_op = work.calls(op, member).all();
      calls.insert(of_op.begin(), of_op.end());
    }
  }
  return {calls.begin(), calls.end()};
}

Timeline simulate_unit_costs(const Program& program, Duration unit) {
  const auto dp = static_cast<int32_t>(program.layout().dp);
  Recorder recorder(program, {}, dp);
  Walk<UnitWork> walk(
      program,
      {.data_ranks = dp, .island = dp},
      [&](Clock& clock, int32_t, int32_t) {
        return std::make_unique<UnitWork>(program, clock, unit);
      },
      recorder);
  walk.run();
  Prediction prediction;
  recorder.finish(prediction);
  return std::move(prediction.timeline);
}

}  // namespace rehearse
