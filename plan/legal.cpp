#include "plan/legal.h"

#include <algorithm>
#include <map>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "plan/capabilities.h"

namespace rehearse {
namespace {

class Collector {
 public:
  explicit Collector(std::string section) : section_(std::move(section)) {}
  void add(std::string_view key, std::string message) {
    if (!message.empty())
      reasons_.push_back({fmt::format("{}.{}", section_, key), std::move(message)});
  }
  void add(Reasons more) {
    for (Reason& r : more) reasons_.push_back(std::move(r));
  }
  Reasons take() { return std::move(reasons_); }

 private:
  std::string section_;
  Reasons reasons_;
};

// EP groups must spread evenly over nodes, all of them over as many. Empty when they do.
std::string uneven_groups(const Layout& layout, const Cluster& cluster) {
  const int64_t devices = cluster.devices_per_node;
  const RankGroup group = layout.expert_group();
  // Groups lie on nodes alike again after the least common multiple.
  const int64_t period = std::min(layout.world(), std::lcm(group.block(), devices));
  const auto name = [&](int64_t first) {
    return group.stride == 1 ? fmt::format("ranks {} to {}", first, first + group.size - 1)
                             : fmt::format("ranks {}, {}, ... to {}",
                                           first,
                                           first + group.stride,
                                           group.member(first, group.size - 1));
  };
  size_t nodes_of_first = 0;
  for (int64_t block = 0; block < period; block += group.block()) {
    for (int64_t first = block; first < block + group.stride; ++first) {
      std::map<int64_t, int64_t> members;  // by node
      for (int64_t m = 0; m < group.size; ++m) {
        ++members[cluster.node_of(group.member(first, m))];
      }
      for (const auto& [node, count] : members) {
        if (count == members.begin()->second) continue;
        return fmt::format(
            "the expert-parallel group of {} has {} ranks on node {} and {} on node {}; it must "
            "spread evenly over nodes of {} devices",
            name(first),
            members.begin()->second,
            members.begin()->first,
            count,
            node,
            devices);
      }
      if (first == 0) nodes_of_first = members.size();
      if (members.size() != nodes_of_first) {
        return fmt::format(
            "the expert-parallel group of {} stands on {} nodes of {} devices and that of {} on "
            "{}; all groups must stand on as many",
            name(first),
            members.size(),
            devices,
            name(0),
            nodes_of_first);
      }
    }
  }
  return "";
}

// Matrices and heads that ranks share must divide over them.
void check_tensor_parallel(const Architecture& a, const Layout& l, Collector& why) {
  const auto divides = [&](const char* key, int64_t ranks, int64_t size, const char* what) {
    if (size % ranks == 0) return;
    why.add(key, fmt::format("{} of {} does not divide the model's {} {}", key, ranks, size, what));
  };
  divides("tp", l.tp, a.heads, "attention heads");
  if (a.attention == AttentionKind::kGrouped) divides("tp", l.tp, a.kv_heads, "key-value heads");
  if (a.dense_layers() > 0) divides("tp", l.tp, a.dense_intermediate, "columns of a dense FFN");
  if (a.shared_experts > 0) {
    divides("tp", l.tp, a.shared_experts * a.expert_intermediate, "columns of its shared experts");
  }
  if (a.mtp_depth > 0) divides("tp", l.tp, a.hidden, "columns of an MTP module's projection");
  if (l.etp > 1 && a.experts == 0) {
    why.add("etp", fmt::format("etp of {} for a model without experts; use 1", l.etp));
  }
  divides("etp", l.etp, a.expert_intermediate, "columns of an expert");
  if (l.tp > 1 && !l.sequence_parallel && a.experts > 0) {
    why.add("sequence_parallel",
            "false, but experts are chosen for each token by one rank: tensor-parallel ranks of a "
            "model with experts must share tokens");
  }
}

// What is simulated on GPUs alone.
void check_cores(const Layout& l, const Cluster& cluster, Collector& why) {
  const Layout plain;
  const auto need = [&](const char* key, bool fits) {
    if (fits) return;
    why.add(
        key,
        fmt::format("is simulated on clusters of GPUs alone, and '{}' is of cores", cluster.name));
  };
  need("tp", l.tp == 1);
  need("cp", l.cp == 1);
  need("etp", l.etp == 1);
  need("dispatcher", l.dispatcher == plain.dispatcher);
  need("zero_stage", l.zero_stage <= 1);
  need("overlap_grad_reduce", !l.overlap_grad_reduce);
  need("overlap_p2p", l.overlap_p2p);
  need("overlap_all_to_all", !l.overlap_all_to_all);
}

void check_overlap(const Layout& l, Collector& why) {
  if (l.copies() == 2) {
    const std::string both =
        "both ranks that hold a stage would sum its gradients within their schedules, in orders "
        "that differ";
    if (l.zero_stage >= 2) {
      why.add("zero_stage",
              fmt::format("{} under dualpipe: {}; use 1, or dualpipev", l.zero_stage, both));
    }
    if (l.overlap_grad_reduce) {
      why.add("overlap_grad_reduce", fmt::format("true under dualpipe: {}; use dualpipev", both));
    }
  }
  const bool one_way =
      l.schedule == ScheduleKind::k1F1B || l.schedule == ScheduleKind::kInterleaved;
  if (l.overlap_all_to_all && !one_way) {
    why.add("overlap_all_to_all",
            fmt::format("is for 1f1b and interleaved-1f1b; {} has pairs of its own, or none",
                        name_of(l.schedule)));
  }
}

void check_stages(const Architecture& a, const Layout& l, Collector& why) {
  // The first stage may hold the embedding alone, and the last the head (and MTP modules).
  int64_t empty = 0;
  if (static_cast<int64_t>(l.layers_per_stage.size()) == l.stages() && l.stages() > 1) {
    empty = (l.layers_per_stage.front() == 0 ? 1 : 0) + (l.layers_per_stage.back() == 0 ? 1 : 0);
  }
  if (a.layers < l.slots() - empty) {
    why.add(
        l.way() == Way::kRoundAgain ? "chunks" : "schedule",
        fmt::format("a rank of this schedule holds {} stages, and the model has {} layers: every "
                    "stage needs at least one",
                    l.slots(),
                    a.layers));
  }
  if (a.layers < l.stages() - empty) {
    why.add("pp",
            fmt::format("{} pipeline stages for a model of {} layers: every stage needs at least "
                        "one; use pp of at most {}",
                        l.stages(),
                        a.layers,
                        a.layers * l.pp / l.stages()));
  }
  why.add("pp", facts_of(l.schedule).check_ranks(l.pp));
}

void check_layers_per_stage(const Architecture& a, const Layout& l, Collector& why) {
  if (l.layers_per_stage.empty()) return;
  int64_t sum = 0;
  for (const int64_t n : l.layers_per_stage) sum += n;
  for (size_t i = 1; i + 1 < l.layers_per_stage.size(); ++i) {
    if (l.layers_per_stage[i] > 0) continue;
    why.add("layers_per_stage",
            fmt::format("stage {} has no layers: only the first stage (with the embedding) and the "
                        "last (with the head) may be without",
                        i));
    return;
  }
  if (static_cast<int64_t>(l.layers_per_stage.size()) == l.stages() && sum == a.layers) return;
  why.add("layers_per_stage",
          fmt::format("expected {} counts that add up to the model's {} layers, found {} that add "
                      "up to {}",
                      l.stages(),
                      a.layers,
                      l.layers_per_stage.size(),
                      sum));
}

}  // namespace

Reasons why_not_pipeline(const Architecture& a, const Layout& l) {
  Collector why("layout");
  check_stages(a, l, why);
  check_layers_per_stage(a, l, why);
  check_overlap(l, why);
  return why.take();
}

Reasons why_not(const Architecture& a, const Cluster& cluster, const Layout& l) {
  Collector why("layout");
  why.add(why_not_pipeline(a, l));
  const bool divides = l.stage_ranks() % (l.ep * l.etp) == 0;
  if (!divides) {
    const bool plain = l.stage_ranks() == l.dp;
    why.add("ep",
            fmt::format("ep {}of {} does not divide {} of {}",
                        l.etp > 1 ? "x etp " : "",
                        l.ep * l.etp,
                        plain ? "dp" : "dp x cp x tp",
                        l.stage_ranks()));
  }
  if (l.ep > 1 && a.experts == 0) {
    why.add("ep", fmt::format("ep of {} for a model without experts; use 1", l.ep));
  } else if (l.ep > 1 && a.experts % l.ep != 0) {
    why.add("ep", fmt::format("ep of {} does not divide the model's {} experts", l.ep, a.experts));
  }
  check_tensor_parallel(a, l, why);
  if (!cluster.of_gpus()) check_cores(l, cluster, why);
  if (l.world() > cluster.devices()) {
    why.add("pp",
            fmt::format("pp x dp x cp x tp is {} ranks, but cluster '{}' has {} devices",
                        l.world(),
                        cluster.name,
                        cluster.devices()));
  }
  if (divides) why.add("ep", uneven_groups(l, cluster));
  return why.take();
}

Reasons why_not(const Layout& layout, const Training& t) {
  Collector why("training");
  // Of a causal sequence each context-parallel rank has two parts, an early one and a late one, so
  // that all have as many keys to look at.
  const int64_t parts = layout.token_ranks() * (layout.cp > 1 ? 2 : 1);
  if (t.sequence_length % parts != 0) {
    why.add(
        "sequence_length",
        fmt::format("{} tokens do not divide into {} parts ({}): use a multiple of {}, or fewer "
                    "ranks per sequence",
                    t.sequence_length,
                    parts,
                    layout.cp > 1 ? "two for each rank of cp x tp" : "one for each rank of tp",
                    parts));
  }
  // A BF16 moment keeps still where a step changes it by less than 2^-8 of itself, which 1 - beta
  // bounds: at 0.999 the second one never falls again (kernels/adamw/adamw.h).
  constexpr double kMostBeta = 0.98;
  if (t.moments == Moments::kBf16 && std::max(t.beta1, t.beta2) > kMostBeta) {
    why.add("moments",
            fmt::format("in bf16 they lose what a beta of {} adds to them: at most {}, or fp32",
                        std::max(t.beta1, t.beta2),
                        kMostBeta));
  }
  why.add("micro_batches",
          facts_of(layout.schedule).check_micro_batches(layout.pp, t.micro_batches));
  return why.take();
}

Reasons why_not(const Cluster& cluster, const Training& t) {
  Collector why("training");
  if (!cluster.of_gpus()) {
    return why.take();
  }
  if (!bytes_of(t.precision).linears) {
    why.add("precision",
            fmt::format("GPUs are priced in bf16 and fp8, not in {}", name_of(t.precision)));
  } else if (t.precision == Precision::kFp8 && !cluster.peak_fp8) {
    why.add("precision",
            fmt::format("cluster '{}' states no peak_fp8: its devices have no FP8 tensor cores; "
                        "use bf16",
                        cluster.name));
  }
  return why.take();
}

Reasons why_not(const Cluster& cluster, const Architecture& a) {
  std::vector<std::string> beyond;
  for (const ModelFeature& f : model_features()) {
    if (!cluster.of_gpus() && f.uses(a)) beyond.push_back(f.name);
  }
  if (beyond.empty()) return {};
  return {{"model",
           fmt::format("has {}: simulated on clusters of GPUs alone, and '{}' is of cores",
                       fmt::join(beyond, ", "),
                       cluster.name)}};
}

Reasons why_not(const Architecture& a, const Training& t) {
  if (a.positions == 0 || t.sequence_length <= a.positions) return {};
  return {{"training.sequence_length",
           fmt::format("{} tokens, but the model has learned positions for {}",
                       t.sequence_length,
                       a.positions)}};
}

Reasons why_not(const Plan& plan) {
  Reasons all = why_not(plan.model.architecture, plan.cluster, plan.layout);
  if (all.empty()) all = why_not(plan.layout, plan.training);
  for (Reason& r : why_not(plan.cluster, plan.training)) all.push_back(std::move(r));
  for (Reason& r : why_not(plan.cluster, plan.model.architecture)) all.push_back(std::move(r));
  for (Reason& r : why_not(plan.model.architecture, plan.training)) all.push_back(std::move(r));
  return all;
}

MicroBatches micro_batches_of(const Layout& layout, const Training& t, int64_t sequences) {
  const int64_t at_once = layout.dp * t.micro_batch_size;
  if (sequences % at_once != 0) {
    return {.why_not = fmt::format(
                "{} sequences do not divide over {} at a time (dp {} x micro-batch size {}): use a "
                "multiple of {}",
                sequences,
                at_once,
                layout.dp,
                t.micro_batch_size,
                at_once)};
  }
  const int64_t count = sequences / at_once;
  std::string wrong = count > kMostMicroBatches
                          ? fmt::format("at most {}", kMostMicroBatches)
                          : facts_of(layout.schedule).check_micro_batches(layout.pp, count);
  if (!wrong.empty()) {
    wrong = fmt::format("{} sequences are {} micro-batches per rank: {}", sequences, count, wrong);
  }
  return {.count = count, .why_not = std::move(wrong)};
}

}  // namespace rehearse
