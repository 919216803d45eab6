#include "search/estimate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/integers.h"
#include "sim/expert_load.h"
#include "sim/network/collective.h"

namespace rehearse {
namespace {

double seconds(Duration d) {
  return d.seconds();
}

// Where the lanes of one rank stand, in seconds.
struct LaneTimes {
  double compute = 0, a2a = 0, tensor = 0, context = 0;
};

// Prices what a rank does with one micro-batch in one layer, in the order of the Program's
// templates (plan/program/build.cpp).
class LayerPricer {
 public:
  // load: of the plan's EP groups; must outlive it.
  LayerPricer(const Plan& plan,
              const std::optional<Calibration>& calibration,
              const GroupLoad& load,
              bool overlapped)
      : plan_(plan),
        work_(plan),
        price_(make_price(plan, work_, calibration, {})),
        group_(plan, 0, 0),
        overlapped_(overlapped),
        load_(load) {
    // The most loaded member is waited for.
    const auto rows = [](const MemberLoad& m) {
      return std::accumulate(m.expert_rows.begin(), m.expert_rows.end(), int64_t{0});
    };
    for (size_t i = 0; i < load_.members.size(); ++i) {
      if (rows(load_.members[i]) > rows(load_.members[most_])) most_ = i;
      if (rows(load_.members[i]) < rows(load_.members[least_])) least_ = i;
    }
  }

  LayerTimes layer(int64_t layer) {
    const bool moe = plan_.model.architecture.is_moe(layer);
    price_layer(layer, moe);
    LayerTimes t;
    // What one layer more adds to two.
    const auto more = [&](auto&& run) {
      LaneTimes two, three;
      const double end2 = run(two, 2);
      const double end3 = run(three, 3);
      return std::max(end3, three.compute) - std::max(end2, two.compute);
    };
    t.forward = more([&](LaneTimes& at, int n) {
      double end = 0;
      for (int i = 0; i < n; ++i) end = forward(at, end, moe);
      return end;
    });
    const auto backward_of = [&](bool weights) {
      return more([&](LaneTimes& at, int n) {
        double end = 0;
        for (int i = 0; i < n; ++i) end = backward(at, end, moe, weights);
        return end;
      });
    };
    t.backward = backward_of(true);
    t.backward_input = backward_of(false);
    t.backward_weight = more([&](LaneTimes& at, int n) {
      double end = 0;
      for (int i = 0; i < n; ++i) {
        end = compute(at, std::max(end, tensor(at, end, mlp_.gather_weight)), mlp_.w);
        end = compute(at, std::max(end, tensor(at, end, attn_.gather_weight)), attn_.w);
      }
      return end;
    });
    t.pair = more([&](LaneTimes& at, int n) {
      double f = 0;
      double b = 0;
      for (int i = 0; i < n; ++i) both(at, f, b, moe);
      return std::max(f, b);
    });
    t.least_forward = qkv_f_.least + attn_.f.least + mlp_.f.least;
    t.least_backward = qkv_b_.least + attn_.i.least + attn_.w.least + mlp_.i.least + mlp_.w.least;
    if (plan_.training.recompute.layer && plan_.cluster.of_gpus()) {
      t.least_backward += t.least_forward;
    }
    return t;
  }

  double alone(OpKind kind, Pass pass) { return cost(kind, pass, {}).alone; }

  // A pipeline message.
  double message() const {
    Op op{.kind = OpKind::kSend, .pass = Pass::kForward};
    const auto bytes = static_cast<double>(work_.message(op, 1).count());
    const auto& link = plan_.cluster.network ? plan_.cluster.network : plan_.cluster.node_link;
    return link ? bytes / link->bandwidth.value() + seconds(link->latency) : 0;
  }
  // Of what streams through memory at a step's end.
  double step_byte() const {
    const Op op{.kind = OpKind::kOptimizer, .stage = 0};
    double bytes = 0;
    for (const GpuTask& task : work_.tasks(op, load_.members.front())) {
      bytes += static_cast<double>(task.bytes.count());
    }
    return bytes > 0 ? seconds(price_->work({op, load_.members.front(), false}).alone) / bytes : 0;
  }
  // Of a head's gather, where tensor-parallel ranks share it.
  double end_gather(OpKind of, Pass pass) const {
    return shared(OpKind::kGather, of, pass, {}, Group::kTensorParallel);
  }

 private:
  struct Cost {
    double alone = 0, beside = 0, least = 0;
  };
  struct OpTimes {
    Cost f, i, w;
    // Collectives of ranks that share the op: before and behind its F, its B, and before its W.
    double gather = 0, scatter = 0, scatter_back = 0, gather_back = 0, gather_weight = 0;
  };

  Cost cost(OpKind kind, Pass pass, std::optional<int64_t> layer) const {
    Op op{.kind = kind, .pass = pass};
    if (layer) op.layer = static_cast<int32_t>(*layer);
    op.micro_batch = 0;
    CostSources sources;
    const auto of = [&](size_t member) {
      const OpCost c = price_->of({op, load_.members[member], overlapped_}, sources);
      const auto whole = [](const LocalCost& l) { return std::max(l.alone, l.held); };
      const Duration around = whole(c.pack) + whole(c.forward);
      return Cost{.alone = seconds(around + whole(c.work)),
                  .beside = seconds(around + std::max(c.work.beside, whole(c.work))),
                  .least = seconds(std::min(c.work.alone, c.work.beside))};
    };
    Cost c = of(most_);
    if (least_ != most_) c.least = of(least_).least;
    return c;
  }

  // An all-to-all with its links to itself: its slowest link, or the SMs that copy.
  double exchange(OpKind kind, Pass pass, int64_t layer) const {
    Op op{.kind = kind, .pass = pass};
    op.layer = static_cast<int32_t>(layer);
    op.micro_batch = 0;
    CostSources sources;
    const OpCost c = price_->of({op, load_.members[most_], overlapped_}, sources);
    if (plan_.layout.ep == 1) return seconds(c.work.alone);
    const Cluster& cluster = plan_.cluster;
    const auto token = static_cast<double>(exchange_message(plan_, kind, pass).count());
    const auto members = static_cast<size_t>(group_.size);
    const auto heaviest = [&](const std::vector<ExchangeFlow>& flows) {
      std::vector<double> out(members, 0), in(members, 0);
      for (const ExchangeFlow& f : flows) {
        out[static_cast<size_t>(f.from)] += static_cast<double>(f.tokens);
        in[static_cast<size_t>(f.to)] += static_cast<double>(f.tokens);
      }
      return std::max(*std::max_element(out.begin(), out.end()),
                      *std::max_element(in.begin(), in.end())) *
             token;
    };
    double links = 0;
    double latency = 0;
    if (cluster.network && !load_.flows.across.empty()) {
      links = heaviest(load_.flows.across) / cluster.network->bandwidth.value();
      latency = seconds(cluster.network->latency);
    }
    if (cluster.node_link && !load_.flows.within.empty()) {
      links = std::max(links, heaviest(load_.flows.within) / cluster.node_link->bandwidth.value());
      latency += seconds(cluster.node_link->latency);
    }
    double copying = 0;
    if (cluster.copy_per_sm) {
      const double rate =
          cluster.copy_per_sm->value() * static_cast<double>(cluster.communication_sms);
      for (const MemberLoad& m : load_.members) {
        const ExchangeTokens& x = *m.exchange;
        const auto tokens =
            static_cast<double>((group_.nodes > 1 ? x.sent : 0) + x.forwarded + x.arrived);
        copying = std::max(copying, token * tokens / rate * c.copy_slowdown);
      }
    }
    return seconds(c.preparation) + seconds(c.pack.alone + c.forward.alone + c.work.alone) +
           std::max(links + latency, copying);
  }

  // A collective of ranks that share an op.
  double shared(OpKind kind, OpKind of, Pass pass, std::optional<int64_t> layer, Group who) const {
    const Layout& l = plan_.layout;
    const RankGroup group = group_in_stage(who, l).value();
    if (group.size == 1) return 0;
    Op op{.kind = kind, .pass = pass, .group = who};
    if (layer) op.layer = static_cast<int32_t>(*layer);
    op.micro_batch = 0;
    op.of = of;
    const Bytes bytes = work_.message(op, group.size);
    const Cluster& c = plan_.cluster;
    const int64_t near = std::clamp<int64_t>(c.devices_per_node / group.stride, 1, group.size);
    const int64_t per_node = group.size % near == 0 ? near : 1;
    const int64_t nodes = group.size / per_node;
    const auto over = [](Bytes b, const std::optional<Link>& link) {
      return link ? seconds(b / link->bandwidth) : 0;
    };
    if (kind == OpKind::kRing) {
      const auto& link = nodes > 1 ? c.network : c.node_link;
      return over(bytes, link) + (link ? seconds(link->latency * (group.size - 1)) : 0);
    }
    const bool sums = who == Group::kTensorParallel && !l.sequence_parallel;
    if (nodes == 1) {
      const auto n = static_cast<double>(group.size);
      const auto measured = price_->on_node(
          sums                       ? CollectiveKind::kAllReduce
          : kind == OpKind::kScatter ? CollectiveKind::kReduceScatter
                                     : CollectiveKind::kAllGather,
          group.size,
          Bytes(std::llround(static_cast<double>(bytes.count()) * n / (n - 1) / (sums ? 2 : 1))));
      if (measured) return seconds(*measured);
    }
    const CollectivePlan p = plan_collective(c, nodes, per_node, bytes, false);
    return std::max(over(p.node, c.node_link), over(p.network, c.network)) + seconds(p.latency);
  }

  void price_layer(int64_t layer, bool moe) {
    const Layout& l = plan_.layout;
    attn_ = {.f = cost(OpKind::kAttn, Pass::kForward, layer),
             .i = cost(OpKind::kAttn, Pass::kInput, layer),
             .w = cost(OpKind::kAttn, Pass::kWeight, layer)};
    mlp_ = {.f = cost(OpKind::kMlp, Pass::kForward, layer),
            .i = cost(OpKind::kMlp, Pass::kInput, layer),
            .w = cost(OpKind::kMlp, Pass::kWeight, layer)};
    qkv_f_ = qkv_b_ = {};
    context_f_ = context_b_ = 0;
    ring_ = l.cp > 1 && l.context == ContextKind::kRing;
    if (l.cp > 1) {
      const OpKind kind = ring_ ? OpKind::kRing : OpKind::kGather;
      const auto context = [&](Pass pass) {
        return shared(kind, OpKind::kAttn, pass, layer, Group::kContextParallel);
      };
      context_f_ = context(Pass::kForward);
      context_b_ = context(Pass::kInput);
      if (ring_) {
        qkv_f_ = cost(OpKind::kQkv, Pass::kForward, layer);
        qkv_b_ = cost(OpKind::kQkv, Pass::kInput, layer);
      }
    }
    if (l.tp > 1) {
      const auto share = [&](OpTimes& t, OpKind of) {
        const auto one = [&](OpKind kind, Pass pass) {
          return shared(kind, of, pass, layer, Group::kTensorParallel);
        };
        const bool tokens = l.sequence_parallel;
        t.gather = tokens ? one(OpKind::kGather, Pass::kForward) : 0;
        t.scatter = one(OpKind::kScatter, Pass::kForward);
        t.scatter_back = tokens ? one(OpKind::kScatter, Pass::kInput) : 0;
        t.gather_back = one(OpKind::kGather, Pass::kInput);
        t.gather_weight = tokens ? one(OpKind::kGather, Pass::kWeight) : 0;
      };
      share(attn_, OpKind::kAttn);
      if (!moe || plan_.model.architecture.shared_experts > 0) share(mlp_, OpKind::kMlp);
    }
    const auto expert = [&](OpKind kind, Pass pass) {
      return moe && l.etp > 1 ? shared(kind, OpKind::kMlp, pass, layer, Group::kExpertTensor) : 0;
    };
    expert_gather_ = expert(OpKind::kGather, Pass::kForward);
    expert_scatter_ = expert(OpKind::kScatter, Pass::kForward);
    expert_scatter_back_ = expert(OpKind::kScatter, Pass::kInput);
    expert_gather_back_ = expert(OpKind::kGather, Pass::kInput);
    if (!moe) return;
    dispatch_f_ = exchange(OpKind::kDispatch, Pass::kForward, layer);
    combine_f_ = exchange(OpKind::kCombine, Pass::kForward, layer);
    combine_b_ = exchange(OpKind::kCombine, Pass::kInput, layer);
    dispatch_b_ = exchange(OpKind::kDispatch, Pass::kInput, layer);
  }

  // --- lanes: when what is ready at `ready` ends
  static double compute(LaneTimes& at, double ready, const Cost& c) {
    const double start = std::max(at.compute, ready);
    // As slow as beside an all-to-all for as long as there is one.
    const double shared = std::max(0.0, at.a2a - start);
    const double took =
        c.beside <= shared || c.beside <= 0 ? c.beside : shared + c.alone * (1 - shared / c.beside);
    return at.compute = start + took;
  }
  static double a2a(LaneTimes& at, double ready, double time) {
    return at.a2a = std::max(at.a2a, ready) + time;
  }
  static double tensor(LaneTimes& at, double ready, double time) {
    return time > 0 ? at.tensor = std::max(at.tensor, ready) + time : ready;
  }
  static double context(LaneTimes& at, double ready, double time) {
    return time > 0 ? at.context = std::max(at.context, ready) + time : ready;
  }

  double attn_forward(LaneTimes& at, double ready) const {
    double t = tensor(at, ready, attn_.gather);
    if (ring_) {
      t = compute(at, t, qkv_f_);
      const double passed = context(at, t, context_f_);
      t = std::max(passed, compute(at, t, attn_.f));
    } else {
      t = compute(at, context(at, std::max(t, at.compute), context_f_), attn_.f);
    }
    return tensor(at, t, attn_.scatter);
  }
  double dispatch_forward(LaneTimes& at, double ready, bool moe, double& beside) const {
    if (!moe) return ready;
    beside = tensor(at, ready, mlp_.gather);
    return a2a(at, ready, dispatch_f_);
  }
  double mlp_forward(LaneTimes& at, double ready, bool moe, double& beside) const {
    double t = moe ? tensor(at, ready, expert_gather_) : tensor(at, ready, mlp_.gather);
    t = compute(at, moe ? std::max(t, beside) : t, mlp_.f);
    if (!moe) return tensor(at, t, mlp_.scatter);
    const double end = tensor(at, t, expert_scatter_);
    beside = tensor(at, t, mlp_.scatter);
    return end;
  }
  double combine_forward(LaneTimes& at, double ready, bool moe, double beside) const {
    return moe ? std::max(a2a(at, ready, combine_f_), beside) : ready;
  }
  double forward(LaneTimes& at, double ready, bool moe) const {
    double beside = 0;
    double t = attn_forward(at, ready);
    t = dispatch_forward(at, t, moe, beside);
    t = mlp_forward(at, t, moe, beside);
    return combine_forward(at, t, moe, beside);
  }

  double again(LaneTimes& at, double ready, bool moe) const {
    const bool whole = plan_.training.recompute.layer && plan_.cluster.of_gpus();
    return whole ? std::max(ready, forward(at, ready, moe)) : ready;
  }
  double combine_input(LaneTimes& at, double ready, bool moe, double& beside) const {
    if (!moe) return ready;
    beside = tensor(at, ready, mlp_.scatter_back);
    return a2a(at, ready, combine_b_);
  }
  // gathered: when what its W reads of others is there.
  double mlp_input(LaneTimes& at, double ready, bool moe, double& beside, double& gathered) const {
    double t = moe ? tensor(at, ready, expert_scatter_back_) : tensor(at, ready, mlp_.scatter_back);
    if (moe) t = std::max(t, beside);
    gathered = tensor(at, t, mlp_.gather_weight);
    t = compute(at, t, mlp_.i);
    if (!moe) return tensor(at, t, mlp_.gather_back);
    const double end = tensor(at, t, expert_gather_back_);
    beside = tensor(at, t, mlp_.gather_back);
    return end;
  }
  double dispatch_input(LaneTimes& at, double ready, bool moe, double beside) const {
    return moe ? std::max(a2a(at, ready, dispatch_b_), beside) : ready;
  }
  double attn_input(LaneTimes& at, double ready, double& gathered) const {
    double t = tensor(at, ready, attn_.scatter_back);
    gathered = tensor(at, t, attn_.gather_weight);
    if (ring_) {
      const double passed = context(at, t, context_b_);
      t = compute(at, std::max(passed, compute(at, t, attn_.i)), qkv_b_);
    } else {
      t = compute(at, context(at, std::max(t, at.compute), context_b_), attn_.i);
    }
    return tensor(at, t, attn_.gather_back);
  }
  double backward(LaneTimes& at, double ready, bool moe, bool weights) const {
    double beside = 0;
    double gathered = 0;
    double t = again(at, ready, moe);
    t = combine_input(at, t, moe, beside);
    t = mlp_input(at, t, moe, beside, gathered);
    if (weights) compute(at, gathered, mlp_.w);
    t = dispatch_input(at, t, moe, beside);
    t = attn_input(at, t, gathered);
    if (weights) compute(at, gathered, attn_.w);
    return t;
  }
  void both(LaneTimes& at, double& f, double& b, bool moe) const {
    double beside_f = 0;
    double beside_b = 0;
    double gathered = 0;
    b = again(at, b, moe);
    b = combine_input(at, b, moe, beside_b);
    f = attn_forward(at, f);
    f = dispatch_forward(at, f, moe, beside_f);
    b = mlp_input(at, b, moe, beside_b, gathered);
    b = dispatch_input(at, b, moe, beside_b);
    compute(at, gathered, mlp_.w);
    f = mlp_forward(at, f, moe, beside_f);
    f = combine_forward(at, f, moe, beside_f);
    b = attn_input(at, b, gathered);
    compute(at, gathered, attn_.w);
  }

  const Plan& plan_;
  OpWork work_;
  std::unique_ptr<Price> price_;
  ExpertGroup group_;
  bool overlapped_ = false;
  const GroupLoad& load_;
  size_t most_ = 0, least_ = 0;
  // Of the layer at hand.
  OpTimes attn_, mlp_;
  Cost qkv_f_, qkv_b_;
  bool ring_ = false;
  double context_f_ = 0, context_b_ = 0;
  double expert_gather_ = 0, expert_scatter_ = 0, expert_scatter_back_ = 0, expert_gather_back_ = 0;
  double dispatch_f_ = 0, combine_f_ = 0, combine_b_ = 0, dispatch_b_ = 0;
};

// Whether a schedule has cells in which F and B overlap.
bool has_pairs(const Layout& l) {
  return l.schedule == ScheduleKind::kDualPipe || l.schedule == ScheduleKind::kDualPipeV ||
         l.overlap_all_to_all;
}

CellCounts counts_of(const RankSchedule& schedule, size_t slots) {
  const std::vector<double> none(slots, 0);
  CellCounts c{none, none, none, none, none};
  for (const Cell& cell : schedule) {
    const auto f = static_cast<size_t>(cell.forward.direction);
    const auto b = static_cast<size_t>(cell.backward.direction);
    switch (cell.kind) {
      case CellKind::kForward:
        ++c.forward[f];
        break;
      case CellKind::kBackward:
        ++c.backward[b];
        break;
      case CellKind::kBackwardInput:
        ++c.backward_input[b];
        break;
      case CellKind::kBackwardWeight:
        ++c.backward_weight[b];
        break;
      case CellKind::kOverlapped:
        ++c.pair[f];
        break;
    }
  }
  return c;
}

// Time = latency + bytes x per_byte, of collectives among replicas.
struct RingTime {
  double latency = 0, per_byte = 0;
  double of(double bytes) const { return bytes > 0 ? latency + bytes * per_byte : 0; }
};
RingTime ring_time(const Cluster& c, const RankGroup& group, int64_t copies, bool reduce_all) {
  const int64_t ranks = group.size * copies;
  if (ranks == 1) return {};
  const int64_t near = std::clamp<int64_t>(c.devices_per_node / group.stride, 1, group.size);
  const int64_t per_node = ranks % near == 0 ? near : 1;
  const int64_t nodes = ranks / per_node;
  const auto at = [&](int64_t bytes) {
    const CollectivePlan p = plan_collective(c, nodes, per_node, Bytes(bytes), reduce_all);
    double time = 0;
    if (c.network) time = std::max(time, seconds(p.network / c.network->bandwidth));
    if (c.node_link) time = std::max(time, seconds(p.node / c.node_link->bandwidth));
    return std::pair{time, seconds(p.latency)};
  };
  constexpr int64_t kLarge = 1'000'000'000;
  const auto [time, latency] = at(kLarge);
  return {latency, time / static_cast<double>(kLarge)};
}

}  // namespace

Estimator::Estimator(const Plan& base,
                     const std::optional<Calibration>& calibration,
                     double imbalance)
    : base_(base), calibration_(calibration), imbalance_(imbalance) {}

Estimator::BlockKey Estimator::key_of(const Candidate& c, bool pairs) const {
  const Recompute& r = c.recompute;
  const int recompute = (r.norms ? 1 : 0) | (r.up_projections ? 2 : 0) | (r.activations ? 4 : 0) |
                        (r.core ? 8 : 0) | (r.layer ? 16 : 0);
  return {c.layout.tp,
          c.layout.cp,
          c.layout.ep,
          c.layout.etp,
          c.micro_batch_size,
          c.sequence,
          recompute,
          static_cast<int>(c.precision),
          c.communication_sms,
          static_cast<int>(c.layout.dispatcher),
          pairs};
}

const BlockTimes& Estimator::times_of(const Candidate& c, bool pairs) {
  const auto [at, fresh] = blocks_.try_emplace(key_of(c, pairs));
  if (fresh) at->second = price(c, pairs);
  return at->second;
}

BlockTimes Estimator::price(const Candidate& c, bool pairs) {
  Plan plan = plan_of(base_, c);
  Layout& l = plan.layout;
  // As many data ranks as the groups within a stage need, whatever the pipeline.
  l.pp = 1;
  l.dp = std::lcm(l.tp * l.cp, l.ep * l.etp) / (l.tp * l.cp);
  l.schedule = pairs ? ScheduleKind::kDualPipe : ScheduleKind::k1F1B;
  const Architecture& a = plan.model.architecture;
  l.layers_per_stage = {a.layers};
  plan.training.micro_batches = 1;
  BlockTimes t;
  const LoadKey key{l.tp, l.cp, l.ep, l.etp, c.micro_batch_size, c.sequence, l.dispatcher};
  if (!load_ || load_key_ != key) {
    load_ =
        ExpertLoad(plan).of(static_cast<int32_t>(a.experts > 0 ? a.first_moe_layer() : 0), 0, 0);
    load_key_ = key;
  }
  LayerPricer pricer(plan, calibration_, *load_, pairs && l.ep > 1);
  std::array<bool, BlockTimes::kKinds> known{};
  for (int64_t layer = 0; layer < a.layers + a.mtp_depth; ++layer) {
    const size_t kind = (a.is_moe(layer) ? 1 : 0) + (a.is_windowed(layer) ? 2 : 0);
    if (!known[kind]) t.layer[kind] = pricer.layer(layer);
    known[kind] = true;
  }
  t.embed_forward = pricer.alone(OpKind::kEmbed, Pass::kForward);
  t.embed_weight = pricer.alone(OpKind::kEmbed, Pass::kWeight);
  t.head_forward = pricer.alone(OpKind::kHead, Pass::kForward);
  t.head_input = pricer.alone(OpKind::kHead, Pass::kInput);
  t.head_weight = pricer.alone(OpKind::kHead, Pass::kWeight);
  if (l.tp > 1 && l.sequence_parallel) {
    t.head_forward += pricer.end_gather(OpKind::kHead, Pass::kForward);
    t.head_input += pricer.end_gather(OpKind::kHead, Pass::kInput);
  }
  if (a.mtp_depth > 0) {
    t.mtp_forward = pricer.alone(OpKind::kMtp, Pass::kForward);
    t.mtp_input = pricer.alone(OpKind::kMtp, Pass::kInput);
    t.mtp_weight = pricer.alone(OpKind::kMtp, Pass::kWeight);
  }
  t.message = pricer.message();
  t.step_byte = pricer.step_byte();
  return t;
}

// A schedule's counts grow evenly from some number of micro-batches on, and its fullest moments
// stay what they are.
const ScheduleShape& Estimator::shape_of(const Candidate& c) {
  const Layout& l = c.layout;
  const bool chunked = l.way() == Way::kRoundAgain;
  const auto [at, fresh] =
      shapes_.try_emplace({l.schedule, l.pp, chunked ? l.chunks : 0, c.micro_batches});
  ScheduleShape& s = at->second;
  if (!fresh) return s;
  const int64_t step = chunked ? l.pp : 2;
  const int64_t enough = 4 * l.pp + c.micro_batches % 2;
  const int64_t n = c.micro_batches <= enough + step ? c.micro_batches
                    : chunked                        ? 4 * l.pp
                                                     : enough;
  const auto slots = static_cast<size_t>(l.slots());
  const double more = static_cast<double>(c.micro_batches - n) / static_cast<double>(step);
  s.copies = l.copies();
  for (int64_t r = 0; r < l.pp; ++r) {
    const RankSchedule schedule = build_schedule(l, n, r);
    CellCounts counts = counts_of(schedule, slots);
    if (more > 0) {
      const CellCounts next = counts_of(build_schedule(l, n + step, r), slots);
      const auto add = [&](std::vector<double>& here, const std::vector<double>& there) {
        for (size_t d = 0; d < slots; ++d) here[d] += more * (there[d] - here[d]);
      };
      add(counts.forward, next.forward);
      add(counts.backward, next.backward);
      add(counts.backward_input, next.backward_input);
      add(counts.backward_weight, next.backward_weight);
      add(counts.pair, next.pair);
    }
    s.counts.push_back(std::move(counts));
    std::vector<int64_t> held;
    for (int64_t slot = 0; slot < l.slots(); ++slot) held.push_back(l.stage_of(r, slot));
    s.stages.push_back(std::move(held));
    s.moments.push_back(held_moments(schedule, slots));
  }
  return s;
}

void Estimator::begin_block(const Candidate& common) {
  alone_ = &times_of(common, false);
  paired_ = nullptr;
  memory_.emplace(plan_of(base_, common), imbalance_);
  now_.layers.clear();
}

// What all candidates of a block have that differ in ZeRO alone.
void Estimator::begin_pipeline(const Candidate& c) {
  const Layout& l = c.layout;
  const bool pairs = has_pairs(l);
  if (pairs && paired_ == nullptr) paired_ = &times_of(c, true);
  const BlockTimes& t = pairs ? *paired_ : *alone_;
  const Architecture& a = base_.model.architecture;
  now_.schedule = l.schedule;
  now_.chunks = l.chunks;
  now_.layers = l.layers_per_stage;
  now_.times = &t;
  now_.shape = &shape_of(c);
  now_.stages = memory_->stages(l);
  const size_t stages = now_.stages.size();
  now_.of_stage.assign(stages, {});
  for (size_t s = 0; s < stages; ++s) {
    StageTimes& st = now_.of_stage[s];
    for (size_t k = 0; k < BlockTimes::kKinds; ++k) {
      const auto n = static_cast<double>(now_.stages[s].layers[k]);
      if (n == 0) continue;
      st.f += n * t.layer[k].forward;
      st.b += n * t.layer[k].backward;
      st.bi += n * t.layer[k].backward_input;
      st.w += n * t.layer[k].backward_weight;
      st.least += n * (t.layer[k].least_forward + t.layer[k].least_backward);
    }
    if (s == 0) {
      st.f += t.embed_forward;
      st.b += t.embed_weight;
      st.w += t.embed_weight;
    }
    if (s + 1 < stages) continue;
    const auto modules = static_cast<double>(a.mtp_depth);
    st.f += (1 + modules) * t.head_forward + modules * t.mtp_forward;
    st.bi += (1 + modules) * t.head_input + modules * t.mtp_input;
    st.w += (1 + modules) * t.head_weight + modules * t.mtp_weight;
    st.b += (1 + modules) * (t.head_input + t.head_weight) + modules * (t.mtp_input + t.mtp_weight);
  }
  now_.ranks.clear();
  now_.bound = 0;
  const double n = static_cast<double>(c.micro_batches) / static_cast<double>(now_.shape->copies);
  std::vector<const MemoryParts::Stage*> held;
  for (size_t r = 0; r < now_.shape->stages.size(); ++r) {
    held.clear();
    double least = 0;
    for (const int64_t stage : now_.shape->stages[r]) {
      held.push_back(&now_.stages[static_cast<size_t>(stage)]);
      least += n * now_.of_stage[static_cast<size_t>(stage)].least;
    }
    now_.bound = std::max(now_.bound, least);
    RankMemory m = memory_->of(l, held, now_.shape->moments[r]);
    m.parameters = m.gradients = m.optimizer = Bytes();
    now_.ranks.push_back(std::move(m));
  }
  now_.running = running(c, now_.of_stage);
}

// From the first cell to the last.
double Estimator::running(const Candidate& c, const std::vector<StageTimes>& of_stage) const {
  const Layout& l = c.layout;
  const BlockTimes& t = *now_.times;
  const bool pairs = has_pairs(l);
  // A forward of `s` beside a backward of `o`: layers with experts in pairs, the rest one by one.
  const auto pair = [&](size_t s, size_t o) {
    const double time = of_stage[s].f + of_stage[o].b;
    if (l.zero_stage == 3) return time;  // weights of both are gathered
    const MemoryParts::Counts& in_s = now_.stages[s].layers;
    const MemoryParts::Counts& in_o = now_.stages[o].layers;
    const auto experts_s = static_cast<double>(in_s[1] + in_s[3]);
    const auto experts_o = static_cast<double>(in_o[1] + in_o[3]);
    const double both = std::min(experts_s, experts_o);
    if (both == 0) return time;
    // By the kinds' mean.
    double f = 0;
    double b = 0;
    double p = 0;
    for (const size_t k : {size_t{1}, size_t{3}}) {
      f += static_cast<double>(in_s[k]) / experts_s * t.layer[k].forward;
      b += static_cast<double>(in_o[k]) / experts_o * t.layer[k].backward;
      p += static_cast<double>(in_s[k]) / experts_s * t.layer[k].pair;
    }
    return time - both * (f + b - p);
  };
  double most = 0;
  double sum_f = 0;
  double sum_b = 0;
  double sum_w = 0;
  double sum_pair = 0;
  const ScheduleShape& shape = *now_.shape;
  const size_t slots = shape.stages.front().size();
  const bool chunked = l.schedule == ScheduleKind::kInterleaved;
  std::vector<double> slowest(chunked ? slots : 0, 0);  // of the ranks in each of their chunks
  for (size_t r = 0; r < shape.stages.size(); ++r) {
    const CellCounts& counts = shape.counts[r];
    const std::vector<int64_t>& holds = shape.stages[r];
    double busy = 0;
    for (size_t d = 0; d < slots; ++d) {
      const auto stage = static_cast<size_t>(holds[d]);
      const StageTimes& st = of_stage[stage];
      busy += counts.forward[d] * st.f + counts.backward[d] * st.b +
              counts.backward_input[d] * st.bi + counts.backward_weight[d] * st.w;
      sum_f += st.f;
      sum_b += st.b;
      sum_w += st.w;
      if (pairs) {
        // The other direction's backward, or, where there is one alone, its own.
        const double p = pair(stage, static_cast<size_t>(slots == 2 ? holds[1 - d] : holds[d]));
        busy += counts.pair[d] * p;
        sum_pair += p;
      }
      // Ranks take their chunks in step with each other.
      if (chunked) slowest[d] = std::max(slowest[d], pairs ? pair(stage, stage) : st.f + st.b);
    }
    most = std::max(most, busy);
  }
  double in_step = 0;
  for (const double s : slowest) in_step += static_cast<double>(c.micro_batches) * s;
  most = std::max(most, in_step);
  const auto per_stage = static_cast<double>(shape.stages.size() * slots);
  const ChunkCosts costs{.f = sum_f / per_stage,
                         .b = sum_b / per_stage,
                         .w = sum_w / per_stage,
                         .fb = sum_pair / per_stage};
  const auto pp = static_cast<double>(l.pp);
  const double bubble = facts_of(l.schedule, l.overlap_all_to_all).bubble(pp, costs);
  return most + std::max(0.0, bubble) + 2 * (pp - 1) * t.message;
}

Estimate Estimator::estimate(const Candidate& c) {
  const Layout& l = c.layout;
  if (now_.layers.empty() || now_.schedule != l.schedule || now_.chunks != l.chunks ||
      now_.layers != l.layers_per_stage) {
    begin_pipeline(c);
  }
  const Cluster& cluster = base_.cluster;
  const PrecisionBytes& bytes = bytes_of(c.precision);
  const int64_t copies = now_.shape->copies;
  const RankGroup replica_group = l.replica_group();
  const RankGroup expert_group = l.expert_replica_group();
  const int64_t replicas = replica_group.size * copies;
  const int64_t expert_replicas = expert_group.size * copies;
  const bool reduce_all = l.zero_stage == 0;
  const RingTime dense = ring_time(cluster, replica_group, copies, reduce_all);
  const RingTime expert = ring_time(cluster, expert_group, copies, reduce_all);
  const auto ring = [](int64_t elements, int64_t members, int64_t element) {
    return members > 1 ? static_cast<double>(elements) / static_cast<double>(members) *
                             static_cast<double>((members - 1) * element)
                       : 0;
  };
  const auto reduced = [&](const StageWeights& w) {
    const double twice = reduce_all ? 2 : 1;
    return dense.of(twice * ring(w.dense, replicas, 4)) +
           expert.of(twice * ring(w.expert, expert_replicas, 4));
  };
  const auto gathered = [&](const StageWeights& w) {
    return dense.of(ring(w.dense, replicas, bytes.message)) +
           expert.of(ring(w.expert, expert_replicas, bytes.message));
  };
  Estimate e{.bound = now_.bound};
  double in_cells = now_.running;
  // ZeRO-2 sums every micro-batch's gradients, ZeRO-3 gathers weights for every pass, layer by
  // layer beside what computes.
  if (l.zero_stage >= 2) {
    std::vector<StageTimes> slower = now_.of_stage;
    for (size_t s = 0; s < slower.size(); ++s) {
      StageTimes& st = slower[s];
      const MemoryParts::Stage& stage = now_.stages[s];
      int64_t layers = 0;
      for (const int64_t n : stage.layers) layers += n;
      const double starts =
          static_cast<double>(std::max<int64_t>(0, layers - 1)) * (dense.latency + expert.latency);
      const double weights = l.zero_stage == 3 ? gathered(stage.weights) + starts : 0;
      const double sums = reduced(stage.weights) + starts;
      st.f = std::max(st.f, weights);
      st.b = std::max(st.b, weights + sums);
      st.bi = std::max(st.bi, weights);
      st.w = std::max(st.w, sums);
    }
    in_cells = running(c, slower);
  }
  double end_most = 0;
  for (size_t r = 0; r < now_.ranks.size(); ++r) {
    // A step's end: gradients in, the update, weights out.
    double end = 0;
    RankMemory m;
    for (const int64_t held : now_.shape->stages[r]) {
      const MemoryParts::Stage& stage = now_.stages[static_cast<size_t>(held)];
      const StageWeights& w = stage.weights;
      if (l.zero_stage < 2) end += reduced(w);
      if (l.zero_stage == 1 || l.zero_stage == 2) end += gathered(w);
      const double elements = l.zero_stage > 0
                                  ? static_cast<double>(ceil_div(w.dense, replicas) +
                                                        ceil_div(w.expert, expert_replicas))
                                  : static_cast<double>(w.dense + w.expert);
      end += now_.times->step_byte * (elements * static_cast<double>(4 + 8 + 4 * bytes.moment + 2) +
                                      static_cast<double>(w.dense + w.expert) * 4);
      memory_->add_weights(l, stage, m);
    }
    end_most = std::max(end_most, end);
    const RankMemory& rest = now_.ranks[r];
    const Bytes need = m.total() + rest.need();
    if (need > e.need) {
      e.need = need;
      e.fullest = static_cast<int64_t>(r);
    }
  }
  e.step = in_cells + end_most;
  return e;
}

}  // namespace rehearse
