#include "search/layer_times.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "sim/network/collective.h"
#include "sim/price/price.h"

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

  // A pipeline message over a link; over the other where there is none.
  double message(const std::optional<Link>& over, const std::optional<Link>& other) const {
    Op op{.kind = OpKind::kSend, .pass = Pass::kForward};
    const auto bytes = static_cast<double>(work_.message(op, 1).count());
    const auto& link = over ? over : other;
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

}  // namespace

BlockTimes block_times(const Plan& plan,
                       const std::optional<Calibration>& calibration,
                       const GroupLoad& load,
                       bool overlapped) {
  BlockTimes t;
  const Architecture& a = plan.model.architecture;
  LayerPricer pricer(plan, calibration, load, overlapped);
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
  if (plan.layout.tp > 1 && plan.layout.sequence_parallel) {
    t.head_forward += pricer.end_gather(OpKind::kHead, Pass::kForward);
    t.head_input += pricer.end_gather(OpKind::kHead, Pass::kInput);
  }
  if (a.mtp_depth > 0) {
    t.mtp_forward = pricer.alone(OpKind::kMtp, Pass::kForward);
    t.mtp_input = pricer.alone(OpKind::kMtp, Pass::kInput);
    t.mtp_weight = pricer.alone(OpKind::kMtp, Pass::kWeight);
  }
  const Cluster& cluster = plan.cluster;
  t.message = pricer.message(cluster.network, cluster.node_link);
  t.near_message = pricer.message(cluster.node_link, cluster.network);
  t.step_byte = pricer.step_byte();
  return t;
}

}  // namespace rehearse
