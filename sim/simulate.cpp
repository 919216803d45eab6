#include "sim/simulate.h"

#include <algorithm>
#include <map>
#include <set>

#include "sim/engine/walk.h"
#include "sim/folding.h"
#include "sim/gpu_work.h"
#include "sim/host_work.h"
#include "sim/in_step.h"
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
      const auto& layers = program_.layout().layers_per_stage;
      if (layers[static_cast<size_t>(op.stage)] == 0) units = 0;
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
  Recorder(const Program& program, const SimulateOptions& options, StandIns ranks)
      : program_(program), ranks_(std::move(ranks)), summary_(program, ranks_) {
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
      if (wanted.pp_rank != here.pp_rank) continue;
      if (ranks_.slot(wanted.data_rank) != ranks_.slot(here.data_rank)) continue;
      spans.emplace_back(program_.global_id(program_.op(id).id, wanted.data_rank), span);
    }
  }

  void finish(Prediction& prediction) {
    prediction.summary = summary_.finish();
    const auto ops = static_cast<int64_t>(program_.ops().size());
    for (int64_t i = 0; i < static_cast<int64_t>(timeline_.spans.size()); ++i) {
      const auto by = ranks_.data_rank(ranks_.slot(static_cast<int32_t>(i / ops)));
      timeline_.spans[static_cast<size_t>(i)] =
          timeline_.spans[static_cast<size_t>(by * ops + i % ops)];
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
  StandIns ranks_;
  SummaryBuilder summary_;
  Timeline timeline_;
  std::map<int64_t, OpSpans> chosen_;  // by rank
};

void run_gpus(const Plan& plan,
              const Program& program,
              const OpCosts& costs,
              ExpertLoad& load,
              const SimulateOptions& options,
              Prediction& prediction) {
  GpuWorld world(plan, program, costs);
  world.memoise = options.memoise;
  world.ranks = every_rank(world);
  if (world.shared_links && world.memoise && load.uniform() && load.of(0, 0, 0).symmetric) {
    world.in_step = classes_in_step(world);
  }
  if (options.fold) {
    Folding folding = fold(world, load);
    if (options.level_routes && !folding.not_further.empty() && !world.shared_links) {
      world.level_routes();
      folding = fold(world, load, /*level_routes=*/true);
    }
    world.ranks = std::move(folding.ranks);
    prediction.not_folded = std::move(folding.not_further);
  }
  prediction.ranks = world.ranks;
  if (options.link_load) {
    for (const int64_t rank : options.ranks) {
      // A rank that is not simulated has its load from the one that stands for it.
      world.load.choose(prediction.stand_in(plan.layout, rank));
    }
  }
  Recorder recorder(program, options, world.ranks);
  {
    Walk<GpuWork> walk(
        program,
        {.ranks = world.ranks, .threads = options.threads},
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
  world.load.settle_rounding([&](int64_t rank, LinkKind kind) {
    const Cluster& c = plan.cluster;
    const bool node = kind == LinkKind::kNodeOut || kind == LinkKind::kNodeIn;
    const std::optional<Link>& link = node ? c.node_link : c.network;
    const auto slow = c.slow_nics.find(rank);
    if (!node && slow != c.slow_nics.end()) return slow->second.value();
    return link ? link->bandwidth.value() : 0;
  });
  prediction.link_load = std::move(world.load);
  recorder.finish(prediction);
}

}  // namespace

Prediction simulate(const Plan& plan,
                    const Program& program,
                    const std::optional<Calibration>& calibration,
                    const SimulateOptions& options) {
  ExpertLoad load(plan, options.replay);
  const auto first_layer = static_cast<int32_t>(
      plan.model.architecture.experts > 0 ? plan.model.architecture.first_moe_layer() : 0);
  const OpCosts costs(plan, program, calibration, options.variation, load.of(first_layer, 0, 0));
  Prediction prediction;
  if (plan.cluster.of_gpus()) {
    run_gpus(plan, program, costs, load, options, prediction);
  } else {
    const auto dp = static_cast<int32_t>(plan.layout.stage_ranks());
    prediction.ranks = StandIns(dp, dp);
    Recorder recorder(program, options, prediction.ranks);
    Walk<HostWork> walk(
        program,
        {.ranks = prediction.ranks},
        [&](Clock& clock, int32_t, int32_t) {
          return std::make_unique<HostWork>(plan, program, costs, load, clock);
        },
        recorder);
    walk.run(options.progress);
    recorder.finish(prediction);
  }
  prediction.sources = costs.sources();
  prediction.simulated_ops = prediction.ranks.slots() * static_cast<int64_t>(program.ops().size());
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
  const auto dp = static_cast<int32_t>(program.layout().stage_ranks());
  const StandIns ranks(dp, dp);
  Recorder recorder(program, {}, ranks);
  Walk<UnitWork> walk(
      program,
      {.ranks = ranks},
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
