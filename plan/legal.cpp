#include "plan/legal.h"

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
  bool empty() const { return reasons_.empty(); }
  Reasons take() { return std::move(reasons_); }

 private:
  std::string section_;
  Reasons reasons_;
};

// EP groups must spread evenly over nodes, all of them over as many. Empty when they do.
std::string uneven_groups(const Layout& layout, const Cluster& cluster) {
  const int64_t devices = cluster.devices_per_node;
  const int64_t ranks = layout.pp * layout.dp;
  // Groups lie on nodes alike again after the least common multiple.
  const int64_t period = std::min(ranks, std::lcm(layout.ep, devices));
  size_t nodes_of_first = 0;
  for (int64_t first = 0; first < period; first += layout.ep) {
    std::map<int64_t, int64_t> members;  // by node
    for (int64_t r = first; r < first + layout.ep;) {
      const int64_t end = std::min(first + layout.ep, (cluster.node_of(r) + 1) * devices);
      members[cluster.node_of(r)] = end - r;
      r = end;
    }
    for (const auto& [node, count] : members) {
      if (count == members.begin()->second) continue;
      return fmt::format(
          "the expert-parallel group of ranks {} to {} has {} ranks on node {} and {} on node {}; "
          "it must spread evenly over nodes of {} devices",
          first,
          first + layout.ep - 1,
          members.begin()->second,
          members.begin()->first,
          count,
          node,
          devices);
    }
    if (first == 0) nodes_of_first = members.size();
    if (members.size() != nodes_of_first) {
      return fmt::format(
          "the expert-parallel group of ranks {} to {} stands on {} nodes of {} devices and that "
          "of ranks 0 to {} on {}; all groups must stand on as many",
          first,
          first + layout.ep - 1,
          members.size(),
          devices,
          layout.ep - 1,
          nodes_of_first);
    }
  }
  return "";
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

Reasons why_not(const Architecture& a, const Cluster& cluster, const Layout& l) {
  Collector why("layout");
  check_stages(a, l, why);
  const bool divides = l.dp % l.ep == 0;
  if (!divides) why.add("ep", fmt::format("ep of {} does not divide dp of {}", l.ep, l.dp));
  if (l.ep > 1 && (a.experts == 0 || a.experts % l.ep != 0)) {
    why.add("ep", fmt::format("ep of {} does not divide the model's {} experts", l.ep, a.experts));
  }
  check_layers_per_stage(a, l, why);
  if (l.world() > cluster.devices()) {
    why.add("pp",
            fmt::format("pp x dp x tp is {} ranks, but cluster '{}' has {} devices",
                        l.world(),
                        cluster.name,
                        cluster.devices()));
  }
  if (divides) why.add("ep", uneven_groups(l, cluster));
  return why.take();
}

Reasons why_not(const Layout& layout, const Training& t) {
  Collector why("training");
  if (layout.dp % t.context_parallel != 0) {
    why.add(
        "context_parallel",
        fmt::format("{} ranks per sequence do not divide dp of {}", t.context_parallel, layout.dp));
  } else if (t.sequence_length % t.context_parallel != 0) {
    why.add("context_parallel",
            fmt::format("{} ranks do not divide a sequence of {} tokens",
                        t.context_parallel,
                        t.sequence_length));
  }
  why.add("micro_batches",
          facts_of(layout.schedule).check_micro_batches(layout.pp, t.micro_batches));
  return why.take();
}

Reasons why_not(const Cluster& cluster, const Training& t) {
  Collector why("training");
  if (!cluster.of_gpus()) {
    if (t.context_parallel > 1) why.add("context_parallel", "needs a cluster of GPUs");
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

Reasons why_not(const Plan& plan) {
  Reasons all = why_not(plan.model.architecture, plan.cluster, plan.layout);
  if (all.empty()) all = why_not(plan.layout, plan.training);
  for (Reason& r : why_not(plan.cluster, plan.training)) all.push_back(std::move(r));
  for (Reason& r : why_not(plan.cluster, plan.model.architecture)) all.push_back(std::move(r));
  return all;
}

MicroBatches micro_batches_of(const Layout& layout, const Training& t, int64_t sequences) {
  const int64_t at_once = layout.dp * t.micro_batch_size / t.context_parallel;
  if (sequences % at_once != 0) {
    return {.why_not = fmt::format(
                "{} sequences do not divide over {} at a time (dp {} x micro-batch size "
                "{} / context_parallel {}): use a multiple of {}",
                sequences,
                at_once,
                layout.dp,
                t.micro_batch_size,
                t.context_parallel,
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
