#include "plan/plan.h"

#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/yaml.h"
#include "plan/routing/placement.h"
#include "plan/routing/routing_file.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

// Looks for the file that `key` names: as given from the plan's folder, then in the share folder,
// then in that folder's `kind` (models, topologies).
std::string find_file(YamlMap& top,
                      std::string_view key,
                      const std::string& plan_path,
                      const std::string& kind) {
  const std::string name = top.text(key);
  std::vector<std::string> tried;
  const fs::path beside = fs::path(plan_path).parent_path() / name;
  for (const fs::path& p :
       {beside, fs::path(share_folder()) / name, fs::path(share_folder()) / kind / name}) {
    std::error_code error;
    if (fs::is_regular_file(p, error)) return p.lexically_normal().string();
    tried.push_back(p.lexically_normal().string());
  }
  top.fail(key, fmt::format("no file '{}'; looked for {}", name, fmt::join(tried, ", ")));
}

// What the map does not say is as in `base`.
Layout read_layout(YamlMap map, const Model& model, const Cluster& cluster, const Layout& base) {
  Layout l = base;
  constexpr IntegerRange kRanks{.min = 1, .max = 1'000'000};
  l.pp = map.integer("pp", kRanks, base.pp);
  l.dp = map.integer("dp", kRanks, base.dp);
  l.ep = map.integer("ep", kRanks, base.ep);
  l.tp = map.integer("tp", kRanks, base.tp);
  l.schedule = map.has("schedule")
                   ? map.choice<ScheduleKind>("schedule",
                                              {{"1f1b", ScheduleKind::k1F1B},
                                               {"interleaved-1f1b", ScheduleKind::kInterleaved},
                                               {"zb1p", ScheduleKind::kZB1P},
                                               {"dualpipe", ScheduleKind::kDualPipe},
                                               {"dualpipev", ScheduleKind::kDualPipeV}})
                   : base.schedule;
  l.zero_stage = map.integer("zero_stage", {.min = 0, .max = 1}, base.zero_stage);
  const Architecture& a = model.architecture;
  if (l.schedule == ScheduleKind::kInterleaved) {
    l.chunks = map.integer("chunks", {.min = 1, .max = 10'000}, l.chunks);
  }
  if (a.layers < l.slots()) {
    map.fail(
        l.schedule == ScheduleKind::kInterleaved ? "chunks" : "schedule",
        fmt::format("a rank of this schedule holds {} stages, and the model has {} layers: every "
                    "stage needs at least one",
                    l.slots(),
                    a.layers));
  }
  if (a.layers < l.stages()) {
    map.fail("pp",
             fmt::format("{} pipeline stages for a model of {} layers: every stage needs at least "
                         "one; use pp of at most {}",
                         l.stages(),
                         a.layers,
                         a.layers * l.pp / l.stages()));
  }
  const std::string stages = check_stages(l.schedule, l.pp);
  if (!stages.empty()) map.fail("pp", stages);
  if (l.dp % l.ep != 0) {
    map.fail("ep", fmt::format("ep of {} does not divide dp of {}", l.ep, l.dp));
  }
  if (l.ep > 1 && (a.experts == 0 || a.experts % l.ep != 0)) {
    map.fail("ep", fmt::format("ep of {} does not divide the model's {} experts", l.ep, a.experts));
  }
  if (map.has("layers_per_stage")) {
    l.layers_per_stage = map.integers("layers_per_stage", {.min = 1, .max = 10'000});
    int64_t sum = 0;
    for (const int64_t n : l.layers_per_stage) sum += n;
    if (static_cast<int64_t>(l.layers_per_stage.size()) != l.stages() || sum != a.layers) {
      map.fail("layers_per_stage",
               fmt::format("expected {} counts that add up to the model's {} layers, found {} "
                           "that add up to {}",
                           l.stages(),
                           a.layers,
                           l.layers_per_stage.size(),
                           sum));
    }
  } else if (static_cast<int64_t>(base.layers_per_stage.size()) != l.stages()) {
    l.layers_per_stage = even_layers(a.layers, l.stages());
  }
  if (l.world() > cluster.devices()) {
    map.fail("pp",
             fmt::format("pp x dp x tp is {} ranks, but cluster '{}' has {} devices",
                         l.world(),
                         cluster.name,
                         cluster.devices()));
  }
  const std::string uneven = check_expert_groups(l, cluster);
  if (!uneven.empty()) map.fail("ep", uneven);
  map.finish();
  return l;
}

constexpr int64_t kMostMicroBatches = 100'000;

// Empty when the ranks of a layout can share sequences so; else what is wrong.
std::string check_context(const Training& t, const Layout& layout) {
  if (layout.dp % t.context_parallel != 0) {
    return fmt::format(
        "{} ranks per sequence do not divide dp of {}", t.context_parallel, layout.dp);
  }
  if (t.sequence_length % t.context_parallel != 0) {
    return fmt::format(
        "{} ranks do not divide a sequence of {} tokens", t.context_parallel, t.sequence_length);
  }
  return "";
}

Training read_training(YamlMap map, const Layout& layout) {
  Training t;
  constexpr IntegerRange kCount{.min = 1, .max = 1'000'000'000};
  constexpr NumberRange kNotNegative{.min = 0};
  constexpr NumberRange kBelowOne{.min = 0, .max = 0.999999999};
  t.micro_batches = map.integer("micro_batches", {.min = 1, .max = kMostMicroBatches});
  t.micro_batch_size = map.integer("micro_batch_size", {.min = 1, .max = 1'000'000});
  t.sequence_length = map.integer("sequence_length", {.min = 1, .max = 100'000'000});
  t.steps = map.integer("steps", kCount, t.steps);
  if (map.has("tokens")) t.tokens = map.tokens("tokens");
  t.seed = map.integer("seed", {.min = 0}, t.seed);
  if (map.has("precision")) {
    t.precision = map.choice<Precision>(
        "precision",
        {{"fp32", Precision::kFp32}, {"bf16", Precision::kBf16}, {"fp8", Precision::kFp8}});
  }
  t.learning_rate = map.number("learning_rate", kNotNegative, t.learning_rate);
  t.final_learning_rate = map.number("final_learning_rate", kNotNegative, t.learning_rate / 10);
  t.warmup_steps = map.integer("warmup_steps", {.min = 0}, t.warmup_steps);
  t.beta1 = map.number("beta1", kBelowOne, t.beta1);
  t.beta2 = map.number("beta2", kBelowOne, t.beta2);
  t.adam_eps = map.number("adam_eps", kNotNegative, t.adam_eps);
  t.weight_decay = map.number("weight_decay", kNotNegative, t.weight_decay);
  t.gradient_clip = map.number("gradient_clip", kNotNegative, t.gradient_clip);
  t.bias_update_speed = map.number("bias_update_speed", kNotNegative, t.bias_update_speed);
  t.balance_loss = map.number("balance_loss", kNotNegative, t.balance_loss);
  t.mtp_loss = map.number("mtp_loss", kNotNegative, t.mtp_loss);
  if (map.has("context_parallel")) {
    t.context_parallel = map.integer("context_parallel", kCount);
    const std::string unfit = check_context(t, layout);
    if (!unfit.empty()) map.fail("context_parallel", unfit);
  }
  const std::string wrong = check_micro_batches(layout.schedule, layout.pp, t.micro_batches);
  if (!wrong.empty()) map.fail("micro_batches", wrong);
  map.finish();
  return t;
}

// One phase; what it does not say is as in the rest of the plan.
Phase read_phase(YamlMap map, const Plan& plan) {
  Phase phase{.name = map.text("name"), .parts = {}};
  PhasePart part{.layout = plan.layout, .training = plan.training};
  if (map.has("layout")) {
    part.layout = read_layout(map.map("layout"), plan.model, plan.cluster, plan.layout);
  }
  constexpr IntegerRange kCount{.min = 1, .max = 1'000'000'000};
  Training& t = part.training;
  t.sequence_length =
      map.integer("sequence_length", {.min = 1, .max = 100'000'000}, t.sequence_length);
  t.micro_batch_size =
      map.integer("micro_batch_size", {.min = 1, .max = 1'000'000}, t.micro_batch_size);
  t.context_parallel = map.integer("context_parallel", kCount, t.context_parallel);
  const std::string unfit = check_context(t, part.layout);
  if (!unfit.empty()) map.fail("context_parallel", unfit);
  const std::vector<int64_t> batches = map.integers("batches", kCount);
  if (batches.empty()) map.fail("batches", "expected at least one number of sequences per step");
  if (map.has("tokens") == map.has("steps")) {
    map.fail("tokens", "expected one of the keys 'tokens' and 'steps'");
  }
  const double share = 1 / static_cast<double>(batches.size());
  for (const int64_t sequences : batches) {
    part.sequences = sequences;
    part.tokens = map.has("tokens") ? map.tokens("tokens") * share
                                    : static_cast<double>(map.integer("steps", kCount)) * share *
                                          static_cast<double>(sequences * t.sequence_length);
    const int64_t at_once = part.layout.dp * t.micro_batch_size / t.context_parallel;
    if (sequences % at_once != 0) {
      map.fail("batches",
               fmt::format("{} sequences do not divide over {} at a time (dp {} x micro-batch size "
                           "{} / context_parallel {}): use a multiple of {}",
                           sequences,
                           at_once,
                           part.layout.dp,
                           t.micro_batch_size,
                           t.context_parallel,
                           at_once));
    }
    t.micro_batches = sequences / at_once;
    if (t.micro_batches > kMostMicroBatches) {
      map.fail("batches",
               fmt::format("{} sequences are {} micro-batches per rank: at most {}",
                           sequences,
                           t.micro_batches,
                           kMostMicroBatches));
    }
    const std::string wrong =
        check_micro_batches(part.layout.schedule, part.layout.pp, t.micro_batches);
    if (!wrong.empty()) {
      map.fail(
          "batches",
          fmt::format(
              "{} sequences are {} micro-batches per rank: {}", sequences, t.micro_batches, wrong));
    }
    phase.parts.push_back(part);
  }
  map.finish();
  return phase;
}

Budget read_budget(YamlMap map, const Plan& plan) {
  Budget b;
  if (map.has("usd_per_gpu_hour")) b.usd_per_gpu_hour = map.number("usd_per_gpu_hour", {.min = 0});
  if (map.has("watts_per_gpu")) b.watts_per_gpu = map.number("watts_per_gpu", {.min = 0});
  if (map.has("phases")) {
    for (YamlMap& phase : map.maps("phases")) b.phases.push_back(read_phase(phase, plan));
  }
  if (b.phases.empty() && !plan.training.tokens) {
    map.place("phases").fail("budget",
                             "is of phases, or of the plan's training.tokens: neither is there");
  }
  map.finish();
  return b;
}

// Empty when recorded routing is of a model like the plan's; else what differs.
std::string check_recorded(const RoutingShape& recorded, const Architecture& a) {
  const auto differ = [](std::string_view what, int64_t there, int64_t here) {
    return fmt::format("was recorded with {} {}, the model has {}", there, what, here);
  };
  if (recorded.experts != a.experts) return differ("experts", recorded.experts, a.experts);
  if (recorded.active != a.active_experts) {
    return differ("active experts", recorded.active, a.active_experts);
  }
  const int64_t layers = a.layers - a.dense_layers;
  if (recorded.layers != layers) return differ("layers with experts", recorded.layers, layers);
  return "";
}

ExpertLoadSpec read_expert_load(YamlMap map, const Plan& plan) {
  enum class Kind : uint8_t { kBalanced, kSynthetic, kRecorded };
  ExpertLoadSpec e;
  const Kind kind = map.choice<Kind>("kind",
                                     {{"balanced", Kind::kBalanced},
                                      {"synthetic", Kind::kSynthetic},
                                      {"recorded", Kind::kRecorded}});
  if (kind != Kind::kBalanced) {
    if (plan.cluster.device != DeviceKind::kGpu) {
      map.fail("kind",
               "synthetic and recorded counts are for clusters of GPUs; others are simulated "
               "balanced");
    }
    e.synthetic = kind == Kind::kSynthetic;
    if (e.synthetic) {
      e.skew = map.number("skew", {.min = 0, .max = 10}, e.skew);
    } else {
      e.recorded = find_file(map, "file", plan.path, "routing");
      const std::string wrong =
          check_recorded(RoutingReader(e.recorded).shape(), plan.model.architecture);
      if (!wrong.empty()) map.fail("file", fmt::format("'{}' {}", e.recorded, wrong));
    }
    e.seed = map.integer("seed", {.min = 0}, e.seed);
    e.varies = LoadVaries::kMicroBatch;
    if (map.has("varies")) {
      e.varies = map.choice<LoadVaries>("varies",
                                        {{"never", LoadVaries::kNever},
                                         {"layer", LoadVaries::kLayer},
                                         {"micro_batch", LoadVaries::kMicroBatch}});
    }
  }
  map.finish();
  return e;
}

DataSource read_data(YamlMap map, const std::string& plan_path) {
  DataSource d;
  if (map.has("text")) {
    const fs::path name(map.text("text"));
    const fs::path beside = fs::path(plan_path).parent_path() / name;
    if (!fs::is_regular_file(beside)) {
      map.fail("text", fmt::format("no file '{}'", beside.lexically_normal().string()));
    }
    d.text = beside.lexically_normal().string();
  }
  d.validation_fraction =
      map.number("validation_fraction", {.min = 0, .max = 0.9}, d.validation_fraction);
  map.finish();
  return d;
}

}  // namespace

std::string_view name_of(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kBf16:
      return "bf16";
    case Precision::kFp8:
      return "fp8";
  }
  return "?";
}

std::string share_folder() {
  // Beside an installed program, or the source tree around a build folder.
  std::error_code error;
  const fs::path here = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path installed = here.parent_path() / "share" / "rehearse";
  if (fs::is_directory(installed / "models", error)) return installed.string();
  for (fs::path p = here; p.has_relative_path(); p = p.parent_path()) {
    if (fs::is_directory(p / "models", error) && fs::is_directory(p / "topologies", error)) {
      return p.string();
    }
  }
  return installed.string();
}

Plan load_plan(const std::string& path) {
  YamlMap top = YamlFile::load(path).root();
  Plan plan;
  plan.path = path;
  plan.model = load_model(find_file(top, "model", path, "models"));
  plan.cluster = load_cluster(find_file(top, "cluster", path, "topologies"));
  if (top.has("calibration")) {
    plan.calibration = find_file(top, "calibration", path, "topologies");
  }
  plan.layout = read_layout(top.map("layout"), plan.model, plan.cluster, Layout{});
  plan.training = read_training(top.map("training"), plan.layout);
  if (top.has("data")) plan.data = read_data(top.map("data"), path);
  if (top.has("routing")) {
    plan.routing = top.choice<Routing>(
        "routing", {{"learned", Routing::kLearned}, {"balanced", Routing::kBalanced}});
  }
  if (top.has("expert_load")) {
    plan.expert_load = read_expert_load(top.map("expert_load"), plan);
  }
  if (top.has("budget")) plan.budget = read_budget(top.map("budget"), plan);
  top.finish();
  return plan;
}

Plan plan_of(const Plan& plan, const PhasePart& part) {
  Plan p = plan;
  p.layout = part.layout;
  p.training = part.training;
  p.budget = {};
  return p;
}

Program::Spec program_spec(const Plan& plan, Mode mode) {
  const Architecture& a = plan.model.architecture;
  return {.layout = plan.layout,
          .micro_batches = plan.training.micro_batches,
          .dense_layers = a.dense_layers,
          .mtp = a.mtp_depth > 0,
          .expert_bias = a.expert_bias,
          .mode = mode};
}

Program build_program(const Plan& plan, Mode mode) {
  return Program::build(program_spec(plan, mode));
}

}  // namespace rehearse
