#include "search/space.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "cost/layer.h"

namespace rehearse {
namespace {

std::vector<int64_t> divisors(int64_t n, int64_t most) {
  std::vector<int64_t> all;
  for (int64_t d = 1; d <= std::min(n, most); ++d) {
    if (n % d == 0) all.push_back(d);
  }
  return all;
}

// Usual bounds of what a search chooses from; a list that is given goes beyond them.
constexpr int64_t kFewestTokens = 512;  // of a rank, where ranks share a sequence
constexpr int64_t kMostChunks = 16;
constexpr int64_t kMostSequences = 8;  // of a micro-batch

template <typename T>
std::string listed(const std::vector<T>& values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

// Loads of pipeline ranks, in forward FLOPs of a token, of stages cut so.
class StageLoads {
 public:
  StageLoads(const Architecture& a, const Layout& layout, int64_t sequence) : layout_(layout) {
    before_.push_back(0);
    for (int64_t l = 0; l < a.layers; ++l) {
      before_.push_back(before_.back() + layer_forward_flops(a, l, sequence, true).count());
    }
    const double head = 2.0 * static_cast<double>(a.hidden) * static_cast<double>(a.vocabulary);
    last_ = head;
    for (int64_t m = 0; m < a.mtp_depth; ++m) {
      last_ += head + 4.0 * static_cast<double>(a.hidden) * static_cast<double>(a.hidden) +
               layer_forward_flops(a, a.layers + m, sequence, true).count();
    }
  }
  // Of each rank.
  std::vector<double> ranks(const std::vector<int64_t>& layers) const {
    std::vector<double> ranks(static_cast<size_t>(layout_.pp), 0);
    int64_t first = 0;
    for (int64_t stage = 0; stage < layout_.stages(); ++stage) {
      const int64_t end = first + layers[static_cast<size_t>(stage)];
      double load = before_[static_cast<size_t>(end)] - before_[static_cast<size_t>(first)];
      if (layout_.is_last(stage)) load += last_;
      first = end;
      if (layout_.copies() == 2) {
        ranks[static_cast<size_t>(stage)] += load / 2;
        ranks[static_cast<size_t>(layout_.pp - 1 - stage)] += load / 2;
      } else {
        ranks[static_cast<size_t>(layout_.pp_rank_of(stage, stage / layout_.pp))] += load;
      }
    }
    return ranks;
  }
  // The heaviest rank's, then the sum of their squares.
  std::pair<double, double> of(const std::vector<int64_t>& layers) const {
    const std::vector<double> loads = ranks(layers);
    double squares = 0;
    for (const double r : loads) squares += r * r;
    return {*std::max_element(loads.begin(), loads.end()), squares};
  }
  bool holds(int64_t rank, int64_t stage) const {
    if (layout_.copies() == 2) return stage == rank || stage == layout_.pp - 1 - rank;
    return layout_.pp_rank_of(stage, stage / layout_.pp) == rank;
  }

 private:
  const Layout& layout_;
  std::vector<double> before_;
  double last_ = 0;
};

}  // namespace

const std::vector<NamedRecompute>& named_recomputes() {
  static const std::vector<NamedRecompute> all = {
      {"none", {.norms = false, .up_projections = false, .activations = false}},
      {"light", {}},
      {"selective", {.norms = false, .up_projections = false, .activations = false, .core = true}},
      {"full", {.norms = false, .up_projections = false, .activations = false, .layer = true}}};
  return all;
}

std::string recompute_text(const Recompute& r) {
  for (const NamedRecompute& n : named_recomputes()) {
    if (n.recompute == r) return std::string(n.name);
  }
  std::vector<std::string_view> parts;
  if (r.norms) parts.emplace_back("norms");
  if (r.up_projections) parts.emplace_back("up_projections");
  if (r.activations) parts.emplace_back("activations");
  if (r.core) parts.emplace_back("selective");
  if (r.layer) parts.emplace_back("full");
  return fmt::format("{}", fmt::join(parts, "+"));
}

SearchSpace filled(SearchSpace s, const Plan& base) {
  const Cluster& c = base.cluster;
  const Architecture& a = base.model.architecture;
  const bool gpu = c.of_gpus();
  if (s.gpus.empty()) s.gpus = {c.devices()};
  for (const int64_t g : s.gpus) {
    if (g < 1 || g > c.devices()) {
      throw InputError(fmt::format(
          "--gpus {}: cluster '{}' has {} devices; name a larger cluster, or its nodes: --nodes N",
          g,
          c.name,
          c.devices()));
    }
  }
  const int64_t most = *std::max_element(s.gpus.begin(), s.gpus.end());
  if (s.sequences.empty()) s.sequences = {base.training.sequence_length};
  if (s.precisions.empty()) s.precisions = {base.training.precision};
  const int64_t longest = *std::max_element(s.sequences.begin(), s.sequences.end());
  const auto up_to = [](int64_t last) {
    std::vector<int64_t> all;
    for (int64_t i = 1; i <= last; ++i) all.push_back(i);
    return all;
  };
  if (s.pp.empty()) s.pp = up_to(std::min(most, a.layers + 2));
  if (s.tp.empty()) s.tp = gpu ? up_to(std::min(most, c.devices_per_node)) : up_to(1);
  if (s.cp.empty()) {
    s.cp = gpu ? up_to(std::max<int64_t>(1, std::min(most, longest / kFewestTokens))) : up_to(1);
  }
  if (s.ep.empty()) s.ep = a.experts > 0 ? divisors(a.experts, most) : up_to(1);
  if (s.etp.empty()) {
    s.etp = gpu && a.experts > 0 ? up_to(std::min(most, c.devices_per_node)) : up_to(1);
  }
  if (s.chunks.empty()) {
    for (int64_t v = 2; v <= std::min(kMostChunks, a.layers + 2); ++v) s.chunks.push_back(v);
  }
  if (s.micro_batch_sizes.empty()) s.micro_batch_sizes = up_to(kMostSequences);
  if (s.zero_stages.empty()) {
    s.zero_stages = gpu ? std::vector<int64_t>{0, 1, 2, 3} : std::vector<int64_t>{0, 1};
  }
  if (s.schedules.empty()) {
    for (const auto& n : kSchedules.entries()) s.schedules.push_back(n.value);
  }
  if (s.recomputes.empty()) {
    for (const NamedRecompute& n : named_recomputes()) {
      // A fused core keeps next to nothing that could be computed again, and cores run neither.
      const bool deep = n.recompute.core || n.recompute.layer;
      if (n.recompute.core && base.training.core == CoreKind::kFused) continue;
      if (deep && !gpu) continue;
      s.recomputes.push_back(n.recompute);
    }
  }
  if (s.dispatchers.empty()) s.dispatchers = {base.layout.dispatcher};
  if (s.rank_orders.empty()) {
    for (const auto& n : kRankOrders.entries()) s.rank_orders.push_back(n.value);
  }
  if (s.communication_sms.empty()) s.communication_sms = {c.communication_sms};
  return s;
}

std::vector<std::string> defaults_of(const SearchSpace& asked, const SearchSpace& f) {
  std::vector<std::string> lines;
  const auto note = [&](bool was_empty, std::string text) {
    if (was_empty) lines.push_back(std::move(text));
  };
  const auto range = [](const std::vector<int64_t>& v) {
    return v.size() == 1 ? std::to_string(v.front()) : fmt::format("{} to {}", v.front(), v.back());
  };
  note(asked.pp.empty(), "pp " + range(f.pp) + ": a stage holds a layer, or an end of the model");
  note(asked.tp.empty(), "tp " + range(f.tp) + ": within a node");
  note(asked.cp.empty(),
       fmt::format("cp {}: {} tokens and more on a rank", range(f.cp), kFewestTokens));
  note(asked.ep.empty(), "ep " + listed(f.ep) + ": divides the experts");
  note(asked.etp.empty(), "etp " + range(f.etp) + ": within a node");
  note(asked.chunks.empty() && !f.chunks.empty(), "chunks " + range(f.chunks));
  note(asked.micro_batch_sizes.empty(), "micro-batches of " + range(f.micro_batch_sizes));
  note(asked.zero_stages.empty(), "ZeRO " + listed(f.zero_stages));
  std::vector<std::string> names;
  for (const ScheduleKind k : f.schedules) names.emplace_back(name_of(k));
  note(asked.schedules.empty(), "schedules " + listed(names));
  names.clear();
  for (const Recompute& r : f.recomputes) names.push_back(recompute_text(r));
  note(asked.recomputes.empty(), "recompute " + listed(names));
  names.clear();
  for (const Dispatcher d : f.dispatchers) names.emplace_back(kDispatchers[d]);
  note(asked.dispatchers.empty(), "dispatcher " + listed(names));
  names.clear();
  for (const RankOrder o : f.rank_orders) names.emplace_back(kRankOrders[o]);
  note(asked.rank_orders.empty(),
       "order of ranks " + listed(names) + ": the second where nodes then hold other neighbours");
  note(asked.communication_sms.empty(), "communication SMs " + listed(f.communication_sms));
  return lines;
}

Candidate candidate_of(const Plan& plan) {
  const Training& t = plan.training;
  return {.gpus = plan.layout.world(),
          .batch = plan.layout.dp * t.micro_batches * t.micro_batch_size,
          .sequence = t.sequence_length,
          .precision = t.precision,
          .layout = plan.layout,
          .micro_batches = t.micro_batches,
          .micro_batch_size = t.micro_batch_size,
          .recompute = t.recompute,
          .communication_sms = plan.cluster.communication_sms};
}

bool before(const Candidate& a, const Candidate& b) {
  const auto key = [](const Candidate& c) {
    const Layout& l = c.layout;
    const Recompute& r = c.recompute;
    return std::tuple(
        std::array{c.gpus, c.batch, c.sequence, c.micro_batches, c.micro_batch_size},
        std::array{
            l.pp, l.dp, l.ep, l.tp, l.cp, l.etp, l.chunks, l.zero_stage, c.communication_sms},
        c.precision,
        l.schedule,
        l.dispatcher,
        l.rank_order,
        std::array{r.norms, r.up_projections, r.activations, r.core, r.layer},
        l.layers_per_stage);
  };
  return key(a) < key(b);
}

Plan plan_of(const Plan& base, const Candidate& c) {
  Plan plan = base;
  if (c.layout.ep != base.layout.ep) plan.expert_placement.reset();  // of other ranks
  plan.layout = c.layout;
  plan.training.micro_batches = c.micro_batches;
  plan.training.micro_batch_size = c.micro_batch_size;
  plan.training.sequence_length = c.sequence;
  plan.training.precision = c.precision;
  plan.training.recompute = c.recompute;
  plan.cluster.communication_sms = c.communication_sms;
  return plan;
}

std::string to_string(const Candidate& c) {
  const Layout& l = c.layout;
  std::string text = fmt::format("{} {}", ranks_text(l), name_of(l.schedule));
  if (l.way() == Way::kRoundAgain) text += fmt::format(" x{}", l.chunks);
  return text + fmt::format(", {} x {}, ZeRO-{}, {}",
                            c.micro_batches,
                            c.micro_batch_size,
                            l.zero_stage,
                            recompute_text(c.recompute));
}

std::vector<std::vector<int64_t>> stage_splits(const Architecture& a,
                                               const Layout& layout,
                                               int64_t sequence,
                                               bool uneven) {
  std::vector<int64_t> layers = even_layers(a.layers, layout.stages());
  std::vector<std::vector<int64_t>> splits;
  // Even stages of fewer layers than stages leave some empty, which only the ends may be.
  Layout with = layout;
  with.layers_per_stage = layers;
  if (why_not_pipeline(a, with).empty()) splits.push_back(layers);
  if (!uneven || layout.stages() == 1) return splits;
  const StageLoads loads(a, layout, sequence);
  auto best = loads.of(layers);
  const auto last = static_cast<size_t>(layout.stages() - 1);
  // One layer at a time from one stage to another, as long as that helps.
  for (bool better = true; better;) {
    better = false;
    std::vector<int64_t> next;
    const std::vector<double> ranks = loads.ranks(layers);
    const auto heaviest = std::max_element(ranks.begin(), ranks.end()) - ranks.begin();
    for (size_t from = 0; from <= last; ++from) {
      const int64_t least = from == 0 || from == last ? 0 : 1;
      if (layers[from] <= least || !loads.holds(heaviest, static_cast<int64_t>(from))) continue;
      for (size_t to = 0; to <= last; ++to) {
        if (to == from) continue;
        std::vector<int64_t> moved = layers;
        --moved[from];
        ++moved[to];
        const auto load = loads.of(moved);
        constexpr double kLess = 1 - 1e-9;
        const bool less = load.first < best.first * kLess ||
                          (load.first <= best.first && load.second < best.second * kLess);
        if (!less) continue;
        best = load;
        next = std::move(moved);
        better = true;
      }
    }
    if (better) layers = std::move(next);
  }
  with.layers_per_stage = layers;
  if ((splits.empty() || layers != splits.front()) && why_not_pipeline(a, with).empty()) {
    splits.push_back(layers);
  }
  return splits;
}

namespace {

// Whether nodes hold other neighbours when the pipeline counts before the data ranks.
bool orders_differ(const Layout& l, const Cluster& cluster) {
  return l.pp > 1 && l.stage_ranks() > l.island() && l.world() > cluster.devices_per_node &&
         l.island() % cluster.devices_per_node != 0;
}

// Walks a space.
class Walker {
 public:
  Walker(const SearchSpace& space,
         const Plan& base,
         SpaceVisitor& visitor,
         int64_t part,
         int64_t parts)
      : s_(space), base_(base), visitor_(visitor), part_(part), parts_(parts) {}

  void walk() {
    for (const int64_t gpus : s_.gpus) {
      for (const int64_t batch : s_.batches) {
        for (const int64_t sequence : s_.sequences) {
          for (const Precision precision : s_.precisions) {
            Candidate c{.gpus = gpus, .batch = batch, .sequence = sequence, .precision = precision};
            groups(c);
          }
        }
      }
    }
  }

 private:
  // Ranks of the groups that act within a stage.
  void groups(Candidate& c) {
    Layout& l = c.layout;
    l = base_.layout;
    l.rank_order = s_.rank_orders.front();
    l.layers_per_stage.clear();
    l.schedule = ScheduleKind::k1F1B;
    for (const int64_t tp : s_.tp) {
      for (const int64_t cp : s_.cp) {
        if (c.gpus % (tp * cp) != 0) continue;
        for (const int64_t ep : s_.ep) {
          for (const int64_t etp : s_.etp) {
            // What layers cost hangs on these: of one part, whatever the pipeline.
            if (next_++ % parts_ != part_) continue;
            for (const int64_t pp : s_.pp) {
              if (c.gpus % (tp * cp * pp) != 0) continue;
              l.tp = tp;
              l.cp = cp;
              l.pp = pp;
              l.dp = c.gpus / (tp * cp * pp);
              l.ep = ep;
              l.etp = etp;
              if (l.stage_ranks() % (ep * etp) == 0) of_groups(c);
            }
          }
        }
      }
    }
  }

  void of_groups(Candidate& c) {
    Layout& l = c.layout;
    l.schedule = ScheduleKind::k1F1B;
    l.zero_stage = 1;
    l.layers_per_stage.clear();
    const Reasons wrong = why_not(base_.model.architecture, base_.cluster, l);
    if (!wrong.empty()) return refuse(c, wrong.front());
    for (const int64_t size : s_.micro_batch_sizes) {
      c.micro_batch_size = size;
      if (c.batch % (l.dp * size) != 0) {
        if (visitor_.wants_illegal()) {
          c.micro_batches = 0;
          refuse(c,
                 {"training.micro_batch_size",
                  fmt::format("a batch of {} sequences does not divide over dp {} x {}",
                              c.batch,
                              l.dp,
                              size)});
        }
        continue;
      }
      c.micro_batches = c.batch / (l.dp * size);
      if (c.micro_batches > kMostMicroBatches) {
        refuse(c,
               {"training.micro_batches",
                fmt::format("{} micro-batches; at most {}", c.micro_batches, kMostMicroBatches)});
        continue;
      }
      Training t = base_.training;
      t.micro_batches = c.micro_batches;
      t.micro_batch_size = size;
      t.sequence_length = c.sequence;
      t.precision = c.precision;
      l.schedule = ScheduleKind::k1F1B;
      Reasons unfit = why_not(l, t);
      for (Reason& r : why_not(base_.cluster, t)) unfit.push_back(std::move(r));
      for (Reason& r : why_not(base_.model.architecture, t)) unfit.push_back(std::move(r));
      if (!unfit.empty()) {
        refuse(c, unfit.front());
        continue;
      }
      find_pipelines(c);
      for (const Recompute& recompute : s_.recomputes) {
        for (const Dispatcher dispatcher : s_.dispatchers) {
          if (l.ep == 1 && dispatcher != s_.dispatchers.front()) continue;
          for (const int64_t sms : s_.communication_sms) {
            if (l.ep == 1 && sms != s_.communication_sms.front()) continue;
            c.recompute = recompute;
            l.dispatcher = dispatcher;
            c.communication_sms = sms;
            if (!visitor_.block(c)) continue;
            pipelines(c);
          }
        }
      }
    }
  }

  // What is legal of schedules, chunks, stages and ZeRO for these groups and micro-batches: the
  // same whatever is recomputed and however tokens travel.
  struct Pipeline {
    ScheduleKind schedule;
    int64_t chunks, zero;
    const std::vector<int64_t>* layers;
  };
  void find_pipelines(Candidate& c) {
    legal_.clear();
    Layout& l = c.layout;
    const Architecture& a = base_.model.architecture;
    const int64_t given_chunks = base_.layout.chunks;
    for (const ScheduleKind schedule : s_.schedules) {
      l.schedule = schedule;
      const bool chunked = l.way() == Way::kRoundAgain;
      if (chunked && l.pp == 1) {
        refuse(c, {"layout.chunks", "on one pipeline rank chunks change nothing: as 1f1b"});
        continue;
      }
      const std::vector<int64_t> one{given_chunks};
      for (const int64_t chunks : chunked ? s_.chunks : one) {
        l.chunks = chunks;
        l.zero_stage = 1;
        l.layers_per_stage.clear();
        const std::string unsuited = facts_of(schedule).check_micro_batches(l.pp, c.micro_batches);
        if (!unsuited.empty()) {
          refuse(c, {"training.micro_batches", unsuited});
          continue;
        }
        if (const Reasons wrong = why_not_pipeline(a, l); !wrong.empty()) {
          refuse(c, wrong.front());
          continue;
        }
        const std::vector<std::vector<int64_t>>& splits = splits_of(c);
        std::vector<int64_t> zeros;
        for (const int64_t zero : s_.zero_stages) {
          l.zero_stage = zero;
          const Reasons wrong = why_not_pipeline(a, l);
          if (wrong.empty()) {
            zeros.push_back(zero);
          } else {
            refuse(c, wrong.front());
          }
        }
        // Those that differ in ZeRO alone one after the other.
        for (const std::vector<int64_t>& layers : splits) {
          for (const int64_t zero : zeros) legal_.push_back({schedule, chunks, zero, &layers});
        }
      }
    }
  }

  void pipelines(Candidate& c) {
    Layout& l = c.layout;
    const std::vector<RankOrder>& orders = s_.rank_orders;
    const bool differ = orders.size() > 1 && orders_differ(l, base_.cluster);
    for (const RankOrder order : std::span(orders).first(differ ? orders.size() : 1)) {
      l.rank_order = order;
      for (const Pipeline& p : legal_) {
        l.schedule = p.schedule;
        l.chunks = p.chunks;
        l.zero_stage = p.zero;
        l.layers_per_stage = *p.layers;
        visitor_.legal(c);
      }
    }
    l.rank_order = orders.front();
    l.layers_per_stage.clear();
  }

  const std::vector<std::vector<int64_t>>& splits_of(const Candidate& c) {
    const Layout& l = c.layout;
    const auto [at, fresh] = splits_.try_emplace(
        {l.schedule, l.pp, l.way() == Way::kRoundAgain ? l.chunks : 0, c.sequence});
    if (fresh && !s_.layers_per_stage.empty()) {
      Layout with = l;
      with.layers_per_stage = s_.layers_per_stage;
      if (why_not_pipeline(base_.model.architecture, with).empty()) {
        at->second.push_back(s_.layers_per_stage);
      }
    } else if (fresh) {
      at->second = stage_splits(base_.model.architecture, l, c.sequence, s_.uneven_stages);
    }
    return at->second;
  }

  void refuse(const Candidate& c, const Reason& why) {
    if (visitor_.wants_illegal()) visitor_.illegal(c, why);
  }

  const SearchSpace& s_;
  const Plan& base_;
  SpaceVisitor& visitor_;
  int64_t part_, parts_;
  int64_t next_ = 0;
  std::vector<Pipeline> legal_;
  std::map<std::tuple<ScheduleKind, int64_t, int64_t, int64_t>, std::vector<std::vector<int64_t>>>
      splits_;
};

}  // namespace

void visit_space(const SearchSpace& space,
                 const Plan& base,
                 SpaceVisitor& visitor,
                 int64_t part,
                 int64_t parts) {
  Walker(space, base, visitor, part, parts).walk();
}

}  // namespace rehearse
