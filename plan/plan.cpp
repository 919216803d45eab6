#include "plan/plan.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/call_files.h"
#include "base/yaml.h"
#include "plan/batch_ramp.h"
#include "plan/keys.h"
#include "plan/legal.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

// Looks for the file that `key` names, as given or with .yaml behind it: from the plan's folder,
// then in the share folder, then in that folder's `kind` (models, topologies).
std::string find_file(YamlMap& top,
                      std::string_view key,
                      const std::string& plan_path,
                      const std::string& kind) {
  const std::string name = top.text(key);
  std::vector<std::string> tried;
  const fs::path beside = fs::path(plan_path).parent_path();
  const fs::path share = share_folder();
  for (const fs::path& folder : {beside, share, share / kind}) {
    for (const std::string& file : {name, name + ".yaml"}) {
      const fs::path p = folder / file;
      std::error_code error;
      if (fs::is_regular_file(p, error)) return p.lexically_normal().string();
      if (file == name) tried.push_back(p.lexically_normal().string());
    }
  }
  top.fail(key, fmt::format("no file '{}'; looked for {}", name, fmt::join(tried, ", ")));
}

// Throws the first reason, at the key it speaks of.
void refuse(const Reasons& reasons, const YamlMap& map) {
  if (reasons.empty()) return;
  const Reason& first = reasons.front();
  map.fail(first.setting.substr(first.setting.rfind('.') + 1), first.message);
}

// What the map does not say is as in `base`.
Layout read_layout(YamlMap map, const Model& model, const Cluster& cluster, const Layout& base) {
  map.keys(plan_keys("layout"));
  Layout l = base;
  constexpr IntegerRange kRanks{.min = 1, .max = 1'000'000};
  l.pp = map.integer("pp", kRanks, base.pp);
  l.dp = map.integer("dp", kRanks, base.dp);
  l.ep = map.integer("ep", kRanks, base.ep);
  l.tp = map.integer("tp", kRanks, base.tp);
  l.cp = map.integer("cp", kRanks, base.cp);
  l.etp = map.integer("etp", kRanks, base.etp);
  l.rank_order = map.choice("rank_order", kRankOrders, base.rank_order);
  l.sequence_parallel = map.boolean("sequence_parallel", base.sequence_parallel);
  l.context = map.choice("context", kContextKinds, base.context);
  l.dispatcher = map.choice("dispatcher", kDispatchers, base.dispatcher);
  l.overlap_grad_reduce = map.boolean("overlap_grad_reduce", base.overlap_grad_reduce);
  l.overlap_p2p = map.boolean("overlap_p2p", base.overlap_p2p);
  l.overlap_all_to_all = map.boolean("overlap_all_to_all", base.overlap_all_to_all);
  l.schedule = map.choice("schedule", kSchedules, base.schedule);
  l.zero_stage = map.integer("zero_stage", {.min = 0, .max = 3}, base.zero_stage);
  if (l.way() == Way::kRoundAgain) {
    l.chunks = map.integer("chunks", {.min = 1, .max = 10'000}, l.chunks);
  }
  if (map.has("layers_per_stage")) {
    l.layers_per_stage = map.integers("layers_per_stage", {.min = 0, .max = 10'000});
  } else if (static_cast<int64_t>(base.layers_per_stage.size()) != l.stages()) {
    l.layers_per_stage.clear();
  }
  refuse(why_not(model.architecture, cluster, l), map);
  if (l.layers_per_stage.empty()) {
    l.layers_per_stage = even_layers(model.architecture.layers, l.stages());
  }
  map.finish();
  return l;
}

// A key that stood here in earlier versions.
void refuse_moved(const YamlMap& map) {
  if (!map.contains("context_parallel")) return;
  map.fail("context_parallel",
           "is layout.cp now, and dp no longer counts these ranks: dp: 128 with "
           "context_parallel: 8 is dp: 16 with cp: 8");
}

}  // namespace

Recompute usual_recompute(const Cluster& cluster) {
  if (cluster.of_gpus()) return {};
  return {.norms = false, .up_projections = false, .activations = false};
}

namespace {

// "full", "none", or a list of what is computed again.
Recompute read_recompute(YamlMap& map) {
  const std::vector<std::string> names =
      map.is_list("recompute") ? map.texts("recompute") : std::vector{map.text("recompute")};
  Recompute r{.norms = false, .up_projections = false, .activations = false};
  for (const std::string& name : names) {
    const auto part = kRecomputable.find(name);
    if (!part && !(name == "none" && names.size() == 1)) {
      map.fail("recompute",
               fmt::format(
                   "'{}' is not known; expected none, or some of {}", name, kRecomputable.list()));
    }
    if (part) set_recompute(r, *part);
  }
  if (r.layer && names.size() > 1) {
    map.fail("recompute", "full is all of a layer, and stands alone; leave out the rest");
  }
  return r;
}

// "2B tokens" instead of a number of steps.
bool in_tokens(YamlMap& map, const char* key) {
  return map.text(key).ends_with("tokens");
}

Training read_training(YamlMap map,
                       const Architecture& model,
                       const Cluster& cluster,
                       const Layout& layout) {
  map.keys(plan_keys("training"));
  Training t;
  t.recompute = usual_recompute(cluster);
  constexpr NumberRange kNotNegative{.min = 0};
  constexpr NumberRange kBelowOne{.min = 0, .max = 0.999999999};
  t.micro_batches = map.integer("micro_batches", {.min = 1, .max = kMostMicroBatches});
  t.micro_batch_size = map.integer("micro_batch_size", {.min = 1, .max = 1'000'000});
  t.sequence_length = map.integer("sequence_length", {.min = 1, .max = 100'000'000});
  constexpr IntegerRange kSteps{.min = 0, .max = 1'000'000'000};
  t.ramp_from = map.integer("ramp_from", kSteps, t.ramp_from);
  if (map.has("ramp_steps") && in_tokens(map, "ramp_steps")) {
    t.ramp_tokens = map.tokens("ramp_steps");
  } else {
    t.ramp_steps = map.integer("ramp_steps", kSteps, t.ramp_steps);
  }
  const BatchRamp ramp(t, layout);
  const auto steps = [&](const char* key, int64_t missing, int64_t least = 0) {
    if (!map.has(key) || !in_tokens(map, key)) {
      return map.integer(key, {.min = least, .max = kSteps.max}, missing);
    }
    const int64_t count = ramp.steps_for(map.tokens(key));
    if (count > kSteps.max)
      map.fail(key, fmt::format("is {} steps; at most {}", count, kSteps.max));
    return count;
  };
  t.steps = steps("steps", t.steps, 1);
  if (map.has("tokens")) t.tokens = map.tokens("tokens");
  t.seed = map.integer("seed", {.min = 0}, t.seed);
  t.precision = map.choice("precision", kPrecisions, t.precision);
  t.moments = map.choice("moments", kMoments, t.moments);
  t.learning_rate = map.number("learning_rate", kNotNegative, t.learning_rate);
  t.final_learning_rate = map.number("final_learning_rate", kNotNegative, t.learning_rate / 10);
  t.warmup_steps = steps("warmup_steps", t.warmup_steps);
  t.constant_steps = steps("constant_steps", t.constant_steps);
  t.hold_steps = steps("hold_steps", t.hold_steps);
  t.tail_steps = steps("tail_steps", t.tail_steps);
  if (map.has("tail_learning_rate")) {
    t.tail_learning_rate = map.number("tail_learning_rate", kNotNegative);
  }
  t.beta1 = map.number("beta1", kBelowOne, t.beta1);
  t.beta2 = map.number("beta2", kBelowOne, t.beta2);
  t.adam_eps = map.number("adam_eps", kNotNegative, t.adam_eps);
  t.weight_decay = map.number("weight_decay", kNotNegative, t.weight_decay);
  t.gradient_clip = map.number("gradient_clip", kNotNegative, t.gradient_clip);
  t.bias_update_speed = map.number("bias_update_speed", kNotNegative, t.bias_update_speed);
  t.balance_loss = map.number("balance_loss", kNotNegative, t.balance_loss);
  t.balance_over = map.choice("balance_over", kBalanceOvers, t.balance_over);
  t.ema = map.number("ema", kBelowOne, t.ema);
  t.mtp_loss = map.number("mtp_loss", kNotNegative, t.mtp_loss);
  t.core = map.choice("core", kCoreKinds, t.core);
  if (map.has("recompute")) t.recompute = read_recompute(map);
  refuse_moved(map);
  refuse(why_not(layout, t), map);
  refuse(why_not(model, t), map);
  const int64_t batch = t.micro_batches * t.micro_batch_size * layout.dp;
  if (t.ramp_from > batch) {
    map.fail("ramp_from",
             fmt::format("{} sequences are more than the batch's {}", t.ramp_from, batch));
  }
  if (t.ramp_from > 0 && t.ramp_steps == 0 && !t.ramp_tokens) {
    map.fail("ramp_from", "a batch that grows needs ramp_steps: over how many steps or tokens");
  }
  const double step = static_cast<double>(t.micro_batches * t.micro_batch_size * layout.dp) *
                      static_cast<double>(t.sequence_length);
  if (t.tokens && *t.tokens < step) {
    map.fail("tokens",
             fmt::format("a whole training is of one step at least, here {:.0f} tokens", step));
  }
  map.finish();
  return t;
}

// One phase; what it does not say is as in the rest of the plan.
Phase read_phase(YamlMap map, const Plan& plan) {
  map.keys(plan_keys("budget.phases"));
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
  refuse_moved(map);
  if (const Reasons unfit = why_not(part.layout, t); !unfit.empty()) {
    const bool of_batch = unfit.front().setting == "training.micro_batches";
    if (!of_batch) refuse(unfit, map);  // else of the plan's own
  }
  refuse(why_not(plan.model.architecture, t), map);
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
    const MicroBatches fit = micro_batches_of(part.layout, t, sequences);
    if (!fit.why_not.empty()) map.fail("batches", fit.why_not);
    t.micro_batches = fit.count;
    phase.parts.push_back(part);
  }
  map.finish();
  return phase;
}

Budget read_budget(YamlMap map, const Plan& plan) {
  map.keys(plan_keys("budget"));
  Budget b;
  if (map.has("usd_per_gpu_hour"))
    b.usd_per_gpu_hour = map.number("usd_per_gpu_hour", {.min = 0, .max = 1e6});
  if (map.has("watts_per_gpu"))
    b.watts_per_gpu = map.number("watts_per_gpu", {.min = 0, .max = 1e6});
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

ExpertLoadSpec read_expert_load(YamlMap map, const Plan& plan) {
  enum class Kind : uint8_t { kBalanced, kSynthetic, kRecorded };
  map.keys(plan_keys("expert_load"));
  ExpertLoadSpec e;
  const Kind kind = map.choice<Kind>("kind",
                                     {{"balanced", Kind::kBalanced},
                                      {"synthetic", Kind::kSynthetic},
                                      {"recorded", Kind::kRecorded}});
  if (kind != Kind::kBalanced) {
    e.synthetic = kind == Kind::kSynthetic;
    if (e.synthetic) {
      e.skew = map.number("skew", {.min = 0, .max = 10}, e.skew);
    } else {
      e.recorded = find_file(map, "file", plan.path, "routing");
      e.recorded_at = map.place("file");
    }
    e.seed = map.integer("seed", {.min = 0}, e.seed);
    e.varies = LoadVaries::kMicroBatch;
    e.varies = map.choice("varies", kLoadVaries, e.varies);
  }
  map.finish();
  return e;
}

// Each key that is not the report's wants FP8, and cores: what GPUs would take for it is not
// priced.
Fp8Choices read_fp8(YamlMap map, Precision precision, const Cluster& cluster) {
  map.keys(plan_keys("fp8"));
  Fp8Choices c;
  const auto wanted = [&](const char* key, bool differs) {
    if (!differs) return;
    if (precision != Precision::kFp8) {
      map.fail(key,
               fmt::format("is of training.precision: fp8, and here it is {}", name_of(precision)));
    }
    if (cluster.of_gpus()) {
      map.fail(key,
               fmt::format("is a study on cores, and '{}' is of GPUs: their FP8 is the report's",
                           cluster.name));
    }
  };
  const auto choice = [&](const char* key, const auto& names, auto& value) {
    const auto usual = value;
    value = map.choice(key, names, usual);
    wanted(key, value != usual);
  };
  choice("gradient_tiles", kGradientTiles, c.gradient_tiles);
  choice("scales", kFp8Scales, c.scales);
  choice("swiglu_cache", kSwigluCaches, c.swiglu_cache);
  choice("attention_cache", kAttentionCaches, c.attention_cache);
  choice("dispatch", kFp8Messages, c.dispatch);
  choice("products", kFp8Products, c.products);
  const auto of_tensor_cores = [&](const char* key, IntegerRange range, int64_t& value) {
    const int64_t usual = value;
    value = map.integer(key, range, usual);
    wanted(key, value != usual);
    if (value != usual && c.products != Fp8Products::kTensorCore) {
      map.fail(key, "is of products: tensor_core, and here they are exact");
    }
  };
  of_tensor_cores("promotion", {.min = 0, .max = int64_t{1} << 20}, c.promotion);
  if (c.promotion % 32 != 0) {
    map.fail("promotion",
             fmt::format("{} is no multiple of 32, the products of one instruction", c.promotion));
  }
  of_tensor_cores("accumulator_bits", {.min = 1, .max = 16}, c.accumulator_bits);
  map.finish();
  return c;
}

DataSource read_data(YamlMap map, const std::string& plan_path) {
  map.keys(plan_keys("data"));
  DataSource d;
  if (map.has("text")) {
    const fs::path name(map.text("text"));
    const fs::path beside = fs::path(plan_path).parent_path() / name;
    if (!fs::is_regular_file(beside)) {
      map.fail("text", fmt::format("no file '{}'", beside.lexically_normal().string()));
    }
    d.text = beside.lexically_normal().string();
  }
  if (map.has("document_separator")) d.document_separator = map.text("document_separator");
  d.fim_rate = map.number("fim_rate", {.min = 0, .max = 1}, d.fim_rate);
  if (d.fim_rate > 0 && d.document_separator.empty()) {
    map.fail("fim_rate",
             "is a share of documents; document_separator says what stands between them");
  }
  d.validation_fraction =
      map.number("validation_fraction", {.min = 0, .max = 0.9}, d.validation_fraction);
  map.finish();
  return d;
}

}  // namespace

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

std::string find_shared(const std::string& name, const std::string& kind) {
  const fs::path shared = fs::path(share_folder()) / kind;
  for (const fs::path& p :
       {fs::path(name), fs::path(name + ".yaml"), shared / name, shared / (name + ".yaml")}) {
    std::error_code error;
    if (fs::is_regular_file(p, error)) return fs::absolute(p).lexically_normal().string();
  }
  std::vector<std::string> there;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(shared, error)) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() == ".yaml" && stem.find('.') == std::string::npos) {
      there.push_back(stem);
    } else if (entry.path().extension() == ".yaml" && kind == "models") {
      there.push_back(stem);
    }
  }
  std::sort(there.begin(), there.end());
  throw InputError(
      fmt::format("no file '{}'; those that come with rehearse: {}", name, fmt::join(there, ", ")));
}

PrecisionBytes bytes_of(const Training& t) {
  PrecisionBytes bytes = bytes_of(t.precision);
  if (t.moments != Moments::kAuto) bytes.moment = t.moments == Moments::kBf16 ? 2 : 4;
  return bytes;
}

RuntimeFormats runtime_formats(const Training& t) {
  if (t.precision == Precision::kFp32) return {};
  const ElementFormat bf16{.element = 2};
  RuntimeFormats f{bf16, bf16, bf16, bf16, bf16, bf16, bf16};
  if (t.precision != Precision::kFp8) return f;
  const ElementFormat fp8{.element = 1, .scaled = true};
  f.operand = f.gradient = fp8;
  if (t.fp8.swiglu_cache == SwigluCache::kFp8) f.swiglu = fp8;
  if (t.fp8.dispatch == Fp8Message::kFp8) f.tokens_sent = f.gradients_sent = fp8;
  if (t.fp8.attention_cache == AttentionCache::kFp8) f.core = fp8;
  if (t.fp8.attention_cache == AttentionCache::kE5m6) f.core = {.element = 1.5, .scaled = true};
  return f;
}

Plan load_plan(const std::string& path) {
  YamlMap top = YamlFile::load(path).root();
  top.keys(plan_keys(""));
  Plan plan;
  plan.path = path;
  plan.files = {
      path, find_file(top, "model", path, "models"), find_file(top, "cluster", path, "topologies")};
  plan.model = load_model(plan.files[1]);
  plan.cluster = load_cluster(plan.files[2]);
  refuse(why_not(plan.cluster, plan.model.architecture), top);
  if (top.has("calibration")) {
    if (top.text("calibration") == "none") {
      plan.calibration = "none";
    } else {
      plan.calibration = find_file(top, "calibration", path, "topologies");
      plan.files.push_back(*plan.calibration);
    }
  }
  plan.layout = read_layout(top.map("layout"), plan.model, plan.cluster, Layout{});
  plan.training =
      read_training(top.map("training"), plan.model.architecture, plan.cluster, plan.layout);
  if (top.has("fp8")) {
    plan.training.fp8 = read_fp8(top.map("fp8"), plan.training.precision, plan.cluster);
  }
  if (top.has("data")) plan.data = read_data(top.map("data"), path);
  plan.routing = top.choice("routing", kRoutings, plan.routing);
  if (top.has("expert_load")) {
    plan.expert_load = read_expert_load(top.map("expert_load"), plan);
  }
  if (top.has("expert_placement")) {
    if (plan.model.architecture.experts == 0) {
      top.fail("expert_placement", "the model has no experts to place");
    }
    plan.expert_placement = find_file(top, "expert_placement", path, "routing");
    plan.files.push_back(*plan.expert_placement);
  }
  if (top.has("budget")) plan.budget = read_budget(top.map("budget"), plan);
  top.finish();
  if (plan.data.text) plan.files.push_back(*plan.data.text);
  if (!plan.expert_load.recorded.empty()) plan.files.push_back(plan.expert_load.recorded);
  // Those that are not read now may be later, or by the next call.
  for (const std::string& file : plan.files) note_input(file);
  return plan;
}

std::string shapes_of(const Plan& plan) {
  const Architecture& a = plan.model.architecture;
  const Training& t = plan.training;
  std::string all = fmt::format(
      "vocabulary {}, hidden {}, layers {}, dense {} of {}, experts {} of {}, shared {}, active {} "
      "in {} of {} groups, heads {} of {} {} {}, compressed {} {}, mtp {}, {} x {} tokens, context "
      "over {}, {}",
      a.vocabulary,
      a.hidden,
      a.layers,
      a.dense.is_leading() ? std::to_string(a.dense_layers()) : "at " + a.dense.print(),
      a.dense_intermediate,
      a.experts,
      a.expert_intermediate,
      a.shared_experts,
      a.active_experts,
      a.kept_groups,
      a.groups,
      a.heads,
      a.qk_nope,
      a.qk_rope,
      a.v_head,
      a.q_lora.value_or(0),
      a.kv_lora,
      a.mtp_depth,
      t.micro_batch_size,
      t.sequence_length,
      plan.layout.cp,
      name_of(t.precision));
  if (plan.layout.tp > 1) all += fmt::format(", tensor over {}", plan.layout.tp);
  if (plan.layout.etp > 1) all += fmt::format(", experts' over {}", plan.layout.etp);
  if (a.attention == AttentionKind::kGrouped)
    all += fmt::format(", key-value heads {}", a.kv_heads);
  if (a.window) all += fmt::format(", window {} at {}", *a.window, a.windowed.print());
  if (a.mlp != MlpKind::kGated) all += fmt::format(", mlp {}", kMlpKinds[a.mlp]);
  return all;
}

Plan plan_of(const Plan& plan, const PhasePart& part) {
  Plan p = plan;
  p.layout = part.layout;
  p.training = part.training;
  p.budget = {};
  return p;
}

}  // namespace rehearse
