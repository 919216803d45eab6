#include "plan/program/memory.h"

#include <algorithm>
#include <cmath>

#include "base/integers.h"
#include "cost/gpu_tasks.h"
#include "plan/program/card_room.h"
#include "plan/program/op_work.h"
#include "plan/program/schedule.h"

namespace rehearse {

namespace {

ParameterCounts counts_of(const Plan& plan) {
  return parameter_counts(plan.model.architecture, {.tp = plan.layout.tp, .etp = plan.layout.etp});
}

StageWeights layer_weights(const Plan& plan, const ParameterCounts& p, int64_t layer) {
  const Architecture& a = plan.model.architecture;
  if (!a.is_moe(layer)) return {.dense = p.attention + p.dense_mlp};
  return {.dense = p.attention + p.gate + p.shared,
          .expert = plan.layout.experts_per_rank(a.experts) * p.expert};
}

int64_t ends_of(const Architecture& a, const ParameterCounts& p, const Layout& l, int64_t stage) {
  int64_t ends = stage == 0 ? p.embedding : 0;
  if (!l.is_last(stage)) return ends;
  ends += p.head + a.mtp_depth * p.mtp_projection;
  // Where the embedding stands on the same rank it is shared; else this is a copy, for MTP modules'
  // tokens or for a head that is the embedding's table.
  const bool used = a.mtp_depth > 0 || a.tied_embeddings;
  return used && !l.ends_meet() ? ends + p.embedding : ends;
}

// Of a layer's linears, their weights in FP8; experts: of them here.
int64_t code_bytes(const Layer& layer, int64_t experts) {
  int64_t bytes = 0;
  for (const Linear& l : layer.projections()) bytes += fp8_block_bytes(l);
  const auto add = [&](const std::optional<Ffn>& f, int64_t count) {
    if (f) bytes += count * (fp8_block_bytes(f->gate_up) + fp8_block_bytes(f->down));
  };
  add(layer.dense, 1);
  add(layer.shared, 1);
  add(layer.experts, experts);
  return bytes;
}

}  // namespace

StageWeights layer_weights(const Plan& plan, int64_t layer) {
  return layer_weights(plan, counts_of(plan), layer);
}
int64_t stage_ends(const Plan& plan, int64_t stage) {
  return ends_of(plan.model.architecture, counts_of(plan), plan.layout, stage);
}

StageWeights stage_weights(const Plan& plan, int64_t stage) {
  const ParameterCounts p = counts_of(plan);
  const Layout& l = plan.layout;
  StageWeights w{.dense = ends_of(plan.model.architecture, p, l, stage)};
  const auto add_layer = [&](int64_t layer) {
    const StageWeights of_layer = layer_weights(plan, p, layer);
    w.dense += of_layer.dense;
    w.expert += of_layer.expert;
  };
  for (int64_t layer = l.first_layer(stage); layer < l.end_layer(stage); ++layer) {
    add_layer(layer);
  }
  const int64_t modules = l.is_last(stage) ? plan.model.architecture.mtp_depth : 0;
  for (int64_t m = 0; m < modules; ++m) add_layer(plan.model.architecture.layers + m);
  return w;
}

MemoryParts::MemoryParts(const Plan& plan, double imbalance, bool on_card)
    : architecture_(plan.model.architecture),
      bytes_(bytes_of(plan.training)),
      gpu_(plan.cluster.of_gpus() && !on_card),
      ema_(plan.training.ema > 0),
      tp_(plan.layout.tp),
      tokens_(static_cast<double>(plan.micro_batch_tokens())),
      gathered_tokens_(plan.gathered_tokens()),
      counts_(counts_of(plan)),
      formats_(runtime_formats(plan.training)) {
  formats_.widens = !on_card;
  const bool coded = !gpu_ && plan.training.precision == Precision::kFp8;
  if (coded) bytes_.weight = 2;
  const Layers layers(architecture_, {.tp = plan.layout.tp, .etp = plan.layout.etp});
  const Architecture& a = architecture_;
  const int64_t all = a.layers + a.mtp_depth;
  before_.resize(static_cast<size_t>(all) + 1);
  for (int64_t l = 0; l < all; ++l) {
    Counts c = before_[static_cast<size_t>(l)];
    ++c[(a.is_moe(l) ? 1 : 0) + (a.is_windowed(l) ? 2 : 0)];
    before_[static_cast<size_t>(l) + 1] = c;
  }
  const GpuRecipe recipe = gpu_recipe(plan);
  GpuRecipe all_kept = recipe;
  all_kept.recompute.layer = false;
  recompute_layers_ = gpu_ && recipe.recompute.layer;
  const auto gathered = static_cast<double>(gathered_tokens_);
  const auto of_tokens = [&](const KeptBytes& k) {
    return (k.own + (imbalance - 1) * k.rows) * tokens_ + k.gathered * gathered;
  };
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const bool moe = kind % 2 == 1;
    const bool windowed = kind >= 2;
    if (moe && a.experts == 0) continue;
    weights_[kind] = {
        .dense = counts_.attention + (moe ? counts_.gate + counts_.shared : counts_.dense_mlp),
        .expert = moe ? plan.layout.experts_per_rank(a.experts) * counts_.expert : 0};
    if (coded) {
      codes_[kind] = code_bytes(layers.of(moe, windowed), plan.layout.experts_per_rank(a.experts));
    }
    if (!gpu_) {
      // Rows of experts in whole tokens' worth, and between two of these.
      const double active = static_cast<double>(a.active_experts) * (moe ? imbalance : 1);
      const double above = active - std::floor(active);
      for (const auto& [rows, share] :
           {std::pair(std::floor(active), 1 - above), std::pair(std::floor(active) + 1, above)}) {
        if (share == 0) continue;
        const RuntimeBytes b =
            runtime_bytes(layers.of(moe, windowed),
                          a.hidden,
                          static_cast<int64_t>(rows),
                          plan.layout.ep > 1 ? std::min(plan.layout.ep, a.active_experts) : 0,
                          recipe.recompute,
                          formats_);
        kept_[kind] += share * tokens_ * static_cast<double>(b.kept);
        again_[kind] += share * tokens_ * static_cast<double>(b.backward);
        waiting_[kind] += share * tokens_ * static_cast<double>(b.waiting);
        ending_[kind] += share * tokens_ * static_cast<double>(b.ending);
      }
      continue;
    }
    const auto kept = [&](const GpuRecipe& how) {
      return of_tokens(
          kept_bytes(layers, moe, windowed, plan.training.sequence_length, bytes_, how));
    };
    kept_[kind] = kept(recipe);
    again_[kind] = kept(all_kept);
    passing_[kind] = of_tokens(passing_bytes(layers, moe, windowed));
  }
  if (gpu_ && plan.layout.ep > 1) {
    // Of the tokens that leave and of those that come, in BF16, as combine sends them.
    constexpr double kBf16 = 2;
    const auto ranks = static_cast<double>(std::min(a.active_experts, plan.layout.ep));
    message_ = 2 * imbalance * tokens_ * ranks * static_cast<double>(a.hidden) * kBf16;
  }
}

std::vector<MemoryParts::Stage> MemoryParts::stages(const Layout& l) const {
  const Architecture& a = architecture_;
  const auto count = static_cast<size_t>(l.stages());
  std::vector<Stage> all(count);
  int64_t first = 0;
  for (size_t at = 0; at < count; ++at) {
    Stage& s = all[at];
    const bool last = at + 1 == count;
    const int64_t end = first + l.layers_per_stage[at];
    s.layers = before_[static_cast<size_t>(end + (last ? a.mtp_depth : 0))];
    for (size_t k = 0; k < kKinds; ++k) s.layers[k] -= before_[static_cast<size_t>(first)][k];
    first = end;
    s.ends = ends_of(a, counts_, l, static_cast<int64_t>(at));
    s.weights.dense = s.ends;
    const auto keep = [&](double size) {
      s.held.kept += size;
      s.held.deferred += size;
    };
    for (size_t k = 0; k < kKinds; ++k) {
      if (s.layers[k] == 0) continue;
      const auto layers = static_cast<double>(s.layers[k]);
      s.weights.dense += s.layers[k] * weights_[k].dense;
      s.weights.expert += s.layers[k] * weights_[k].expert;
      s.largest = std::max(s.largest, weights_[k].dense + weights_[k].expert);
      s.passing = std::max(s.passing, passing_[k]);
      s.codes += s.layers[k] * codes_[k];
      if (!gpu_) {
        s.held.kept += layers * kept_[k];
        s.held.backward = std::max(s.held.backward, again_[k]);
        s.held.deferred += layers * (kept_[k] + waiting_[k]);
        s.held.ending = std::max(s.held.ending, ending_[k]);
        continue;
      }
      if (!recompute_layers_) {
        keep(layers * kept_[k]);
        continue;
      }
      // Its input alone, until it is computed again: for as long as its backward takes, or, where
      // weight gradients wait, until they are done.
      s.held.kept += layers * kept_[k];
      s.held.backward = std::max(s.held.backward, again_[k]);
      s.held.deferred += layers * again_[k];
    }
    if (!last) continue;
    if (!gpu_) {
      // Of each head its norm's input and output, and the logits; of MTP modules the embeddings and
      // what M multiplies. A head's are gone when the layers before it are in their backward.
      const double row = tokens_ * static_cast<double>(formats_.kept.bytes(a.hidden));
      const double both = tokens_ * static_cast<double>(formats_.operand.bytes(2 * a.hidden));
      const double head = 2 * row + tokens_ * static_cast<double>(4 * a.vocabulary);
      const auto modules = static_cast<double>(a.mtp_depth);
      keep((1 + modules) * head + modules * (row + both));
      s.held.deferred += modules * 2 * row;  // gradients of what M made, and of the embeddings
      s.held.backward = std::max(2 * row, s.held.backward - head);
      if (formats_.operand.scaled) {
        s.codes += a.mtp_depth * fp8_block_bytes({.out = a.hidden, .in = 2 * a.hidden});
      }
      continue;
    }
    // Of MTP modules the inputs of both norms, and what M multiplies (report, equation 21).
    keep(static_cast<double>(a.mtp_depth) * tokens_ * static_cast<double>(a.hidden) *
         (2 * 2 + 2 * bytes_.kept_input));
    const int64_t heads = 1 + a.mtp_depth;
    // The final norm's input and output, in BF16.
    keep(tokens_ * static_cast<double>(heads * a.hidden * (2 + 2)));
    // Logits, then their gradients, exist for one micro-batch at a time: all of its heads'.
    s.once = Bytes(heads * gathered_tokens_ * ceil_div(a.vocabulary, tp_) * 4);
  }
  return all;
}

// ZeRO-2 keeps a shard of the gradients, ZeRO-3 of the weights too: of the others' there is what is
// under way, a layer's gradients, two layers' weights.
void MemoryParts::add_weights(const Layout& l, const Stage& s, RankMemory& m) const {
  const StageWeights& w = s.weights;
  const int64_t shard = ceil_div(w.dense, l.replicas()) + ceil_div(w.expert, l.expert_replicas());
  const auto held = [&](int64_t from_stage, int64_t layers_under_way) {
    if (l.zero_stage < from_stage) return w.dense + w.expert;
    return std::min(w.dense + w.expert, shard + std::max(s.ends, layers_under_way * s.largest));
  };
  m.parameters += Bytes(held(3, 2)) * bytes_.weight + Bytes(s.codes);
  m.gradients += Bytes(held(2, 1)) * 4;
  // The moving average of a GPU's weights stands in its host's memory (report, section 3.2.3).
  const int64_t average = ema_ && !gpu_ ? 4 : 0;
  m.optimizer += Bytes(l.zero_stage == 0 ? w.dense + w.expert : shard) *
                 (bytes_.master + 2 * bytes_.moment + average);
}

RankMemory MemoryParts::of(const Layout& l,
                           const std::vector<const Stage*>& held,
                           const std::vector<HeldMoment>& moments) const {
  RankMemory m;
  std::vector<Held> per_micro_batch;  // bytes, by direction
  double passing = 0;
  for (const Stage* s : held) {
    add_weights(l, *s, m);
    m.activations += s->once;
    passing = std::max(passing, s->passing);
    per_micro_batch.push_back(s->held);
  }
  double most = -1;
  const HeldMoment* peak = nullptr;
  for (const HeldMoment& moment : moments) {
    const double size = held_at(moment, per_micro_batch);
    if (size <= most) continue;
    most = size;
    peak = &moment;
  }
  if (peak != nullptr) m.peak = *peak;
  m.activations += Bytes(std::llround(std::max(0.0, most)));
  if (gpu_) {
    m.passing = Bytes(std::llround(passing + message_));
    // CUDA's context, its libraries and communicators; and of what comes and goes an allocator
    // leaves some unused. Both are this project's allowance.
    constexpr int64_t kLibraries = 1'000'000'000;
    constexpr double kUnused = 0.03;
    m.reserve =
        Bytes(kLibraries +
              std::llround(kUnused * static_cast<double>((m.activations + m.passing).count())));
  }
  return m;
}

namespace {

RankMemory memory_of(const Plan& plan,
                     int64_t pp_rank,
                     double imbalance = 1,
                     bool on_card = false) {
  const RankSchedule schedule = build_schedule(plan.layout, plan.training.micro_batches, pp_rank);
  const MemoryParts parts(plan, imbalance, on_card);
  const std::vector<MemoryParts::Stage> stages = parts.stages(plan.layout);
  std::vector<const MemoryParts::Stage*> held;
  for (int64_t slot = 0; slot < plan.layout.slots(); ++slot) {
    held.push_back(&stages[static_cast<size_t>(plan.layout.stage_of(pp_rank, slot))]);
  }
  return parts.of(plan.layout, held, held_moments(schedule, held.size()));
}

}  // namespace

RankMemory rank_memory(const Plan& plan, int64_t pp_rank) {
  return memory_of(plan, pp_rank);
}

RankMemory card_memory(const Plan& plan, int64_t pp_rank) {
  const Architecture& a = plan.model.architecture;
  if (a.experts == 0) return memory_of(plan, pp_rank, 1, true);
  const CardRoom room(plan);
  const int64_t tokens = plan.micro_batch_tokens();
  const int64_t rows = plan.layout.ep == 1 ? room.rows(tokens, a.active_experts, a.experts)
                                           : room.rows(room.arrivals(tokens, plan.layout.ep),
                                                       a.active_experts,
                                                       plan.layout.experts_per_rank(a.experts));
  return memory_of(
      plan, pp_rank, static_cast<double>(rows) / static_cast<double>(room.balanced), true);
}

Fit fit_of(Bytes need, Bytes memory) {
  if (need > memory) return Fit::kShort;
  constexpr double kSpare = 0.05;
  const double spare = 1 - static_cast<double>(need.count()) / static_cast<double>(memory.count());
  return spare < kSpare ? Fit::kTight : Fit::kFits;
}

Bytes device_need(const Plan& plan) {
  Bytes most;
  for (int64_t r = 0; r < plan.layout.pp; ++r) most = std::max(most, rank_memory(plan, r).need());
  if (!plan.cluster.of_gpus()) {
    most = most * std::min(plan.layout.world(), plan.cluster.devices_per_node);
  }
  return most;
}

bool fits_memory(const Plan& plan) {
  return device_need(plan) <= plan.cluster.memory;
}

}  // namespace rehearse
