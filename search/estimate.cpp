#include "search/estimate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/integers.h"
#include "sim/expert_load.h"
#include "sim/network/collective.h"

namespace rehearse {
namespace {

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
// Members of a stage's group that share a node with its first.
int64_t members_near(const Cluster& c, const Layout& l, const RankGroup& group) {
  int64_t near = 0;
  const int64_t first = l.rank_of(0, 0);
  while (near < group.size && c.same_node(first, l.rank_of(0, group.member(0, near)))) ++near;
  return near;
}
RingTime ring_time(
    const Cluster& c, const Layout& l, const RankGroup& group, int64_t copies, bool reduce_all) {
  const int64_t ranks = group.size * copies;
  if (ranks == 1) return {};
  const int64_t near = members_near(c, l, group);
  const int64_t per_node = ranks % near == 0 ? near : 1;
  const int64_t nodes = ranks / per_node;
  const auto at = [&](int64_t bytes) {
    const CollectivePlan p = plan_collective(c, nodes, per_node, Bytes(bytes), reduce_all);
    double time = 0;
    if (c.network) time = std::max(time, (p.network / c.network->bandwidth).seconds());
    if (c.node_link) time = std::max(time, (p.node / c.node_link->bandwidth).seconds());
    return std::pair{time, p.latency.seconds()};
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
  const LoadKey key{l.tp, l.cp, l.ep, l.etp, c.micro_batch_size, c.sequence, l.dispatcher};
  if (!load_ || load_key_ != key) {
    load_ =
        ExpertLoad(plan).of(static_cast<int32_t>(a.experts > 0 ? a.first_moe_layer() : 0), 0, 0);
    load_key_ = key;
  }
  return block_times(plan, calibration_, *load_, pairs && l.ep > 1);
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
  now_.rank_order = l.rank_order;
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
  const double bubble =
      facts_of(l.schedule, l.overlap_all_to_all).bubble(static_cast<double>(l.pp), costs);
  return most + std::max(0.0, bubble) + 2 * messages(l, t);
}

// Of one micro-batch on its way through the pipeline.
double Estimator::messages(const Layout& l, const BlockTimes& t) const {
  double time = 0;
  for (int64_t r = 0; r + 1 < l.pp; ++r) {
    const bool near = base_.cluster.same_node(l.rank_of(r, 0), l.rank_of(r + 1, 0));
    time += near ? t.near_message : t.message;
  }
  return time;
}

Estimate Estimator::estimate(const Candidate& c) {
  const Layout& l = c.layout;
  if (now_.layers.empty() || now_.schedule != l.schedule || now_.chunks != l.chunks ||
      now_.rank_order != l.rank_order || now_.layers != l.layers_per_stage) {
    begin_pipeline(c);
  }
  const Cluster& cluster = base_.cluster;
  Training training = base_.training;
  training.precision = c.precision;
  const PrecisionBytes bytes = bytes_of(training);
  const int64_t copies = now_.shape->copies;
  const RankGroup replica_group = l.replica_group();
  const RankGroup expert_group = l.expert_replica_group();
  const int64_t replicas = replica_group.size * copies;
  const int64_t expert_replicas = expert_group.size * copies;
  const bool reduce_all = l.zero_stage == 0;
  const RingTime dense = ring_time(cluster, l, replica_group, copies, reduce_all);
  const RingTime expert = ring_time(cluster, l, expert_group, copies, reduce_all);
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
