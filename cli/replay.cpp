// rehearse replay: what a recorded routing trace means for a plan, under a placement of experts.

#include "sim/replay.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "base/stopwatch.h"
#include "cli/command.h"
#include "cli/page/page.h"
#include "cli/replay_page.h"
#include "plan/capabilities.h"
#include "sim/simulate.h"

namespace rehearse::cli {
namespace {

// What --policy names: those of placement_by, or the fastest of them, layer by layer.
enum class Policy : uint8_t { kInOrder, kPublished, kHierarchical, kGlobal, kBest };
constexpr NameTable kPolicies{std::to_array<Named<Policy>>({{Policy::kInOrder, "in-order"},
                                                            {Policy::kPublished, "published"},
                                                            {Policy::kHierarchical, "hierarchical"},
                                                            {Policy::kGlobal, "global"},
                                                            {Policy::kBest, "best"}})};
static_assert(kPolicies.complete());
constexpr NameTable kReplicaChoices{std::to_array<Named<ReplicaChoice>>(
    {{ReplicaChoice::kInTurn, "in-turn"}, {ReplicaChoice::kSolved, "solved"}})};
static_assert(kReplicaChoices.complete());

PlacementPolicy policy_of(Policy p) {
  switch (p) {
    case Policy::kPublished:
      return PlacementPolicy::kPublished;
    case Policy::kHierarchical:
      return PlacementPolicy::kHierarchical;
    case Policy::kGlobal:
      return PlacementPolicy::kGlobal;
    default:
      return PlacementPolicy::kInOrder;
  }
}

template <typename E, size_t N>
E choice(const Options& options, const char* name, const NameTable<E, N>& table) {
  const auto found = table.find(options.text(name));
  if (!found) {
    throw UsageError(
        fmt::format("replay: --{} {}: expected {}", name, options.text(name), table.list()));
  }
  return *found;
}

using LayerLoads = std::vector<std::vector<double>>;  // tokens, by layer and expert

LayerLoads loads_of(const RecordedStep& step) {
  LayerLoads loads;
  for (int64_t layer = 0; layer < step.shape.layers; ++layer) {
    const std::vector<int64_t> tokens = step.expert_tokens(layer);
    loads.emplace_back(tokens.begin(), tokens.end());
  }
  return loads;
}

void add(LayerLoads& to, const LayerLoads& more, double keep) {
  if (to.empty()) to.assign(more.size(), std::vector<double>(more.front().size(), 0));
  for (size_t l = 0; l < to.size(); ++l) {
    for (size_t e = 0; e < to[l].size(); ++e) to[l][e] = keep * to[l][e] + more[l][e];
  }
}

// What is asked of placements.
struct Placing {
  Policy policy = Policy::kInOrder;
  int64_t redundant = 0;
  ReplicaChoice replicas = ReplicaChoice::kInTurn;
  std::vector<Placement> given;  // --placement
  int64_t every = 0;             // steps after which experts are placed anew; 0: once, by all steps
  bool in_order() const { return given.empty() && policy == Policy::kInOrder; }
};

// Seconds that steps take under placements, simulated.
using StepTime = std::function<double(const std::vector<Placement>&)>;

// Placements for these loads. The best: each policy's for all layers, and a mixture that takes of
// each layer the one whose experts and all-to-alls take least; of these the one whose whole step,
// of `step`, takes least.
std::vector<Placement> place(const Plan& plan,
                             const Placing& how,
                             const LayerReplayer& replayer,
                             const RecordedStep& step,
                             const LayerLoads& loads,
                             const StepTime& step_time) {
  if (!how.given.empty()) return how.given;
  if (how.policy != Policy::kBest) {
    return placements_for(plan, {policy_of(how.policy), how.redundant}, loads);
  }
  std::vector<std::vector<Placement>> candidates(1);  // the mixture first
  std::vector<double> seconds;
  for (const Policy p :
       {Policy::kInOrder, Policy::kPublished, Policy::kHierarchical, Policy::kGlobal}) {
    if (p == Policy::kInOrder && how.redundant > 0) continue;
    ReplayedRouting routing{
        .step = &step,
        .placements = placements_for(plan, {policy_of(p), how.redundant}, loads),
        .replicas = how.replicas};
    const std::vector<LayerReplay> layers = replayer.layers(step, routing);
    std::vector<Placement>& mixture = candidates.front();
    if (mixture.empty()) mixture = routing.placements;
    seconds.resize(layers.size(), INFINITY);
    for (size_t l = 0; l < layers.size(); ++l) {
      if (layers[l].seconds() >= seconds[l]) continue;
      seconds[l] = layers[l].seconds();
      mixture[l] = routing.placements[l];
    }
    candidates.push_back(std::move(routing.placements));
  }
  size_t best = 0;
  double least = INFINITY;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double time = step_time(candidates[i]);
    if (time >= least) continue;
    least = time;
    best = i;
  }
  return candidates[best];
}

// One for all layers of a trace, or for each: of MTP modules too, or the last one's where the map
// has none for them. Throws InputError for a map, of `file`, of other layers.
std::vector<Placement> of_layers(const std::vector<Placement>& map,
                                 const std::string& file,
                                 const Architecture& a,
                                 int64_t layers) {
  const auto has = static_cast<int64_t>(map.size());
  if (has <= 1 || has == layers) return map;
  const int64_t least = a.layers - a.dense_layers();
  const auto fits = [&](int64_t n) { return n == least || n == least + a.mtp_depth; };
  if (!fits(has) || !fits(layers)) {
    throw InputError(fmt::format("{}: {} layers; the trace has {}", file, has, layers));
  }
  std::vector<Placement> all;
  for (int64_t l = 0; l < layers; ++l) all.push_back(*placement_of(map, l));
  return all;
}

// Figures of which steps' means are taken.
constexpr double LoadShape::*kOfExperts[] = {&LoadShape::max,
                                             &LoadShape::p50,
                                             &LoadShape::p90,
                                             &LoadShape::p99,
                                             &LoadShape::gini,
                                             &LoadShape::starving};
constexpr double LayerReplay::*kOfLayer[] = {&LayerReplay::fullest_rank,
                                             &LayerReplay::blamed_share,
                                             &LayerReplay::ib_bytes,
                                             &LayerReplay::nvlink_bytes,
                                             &LayerReplay::busiest_link,
                                             &LayerReplay::nodes_per_token,
                                             &LayerReplay::dispatch,
                                             &LayerReplay::combine,
                                             &LayerReplay::mlp,
                                             &LayerReplay::mlp_of_mean,
                                             &LayerReplay::padding};
// One more step's share, layer by layer.
void add_share(std::vector<LayerReplay>& to, const std::vector<LayerReplay>& step, double share) {
  if (to.empty()) {
    to.resize(step.size());
    for (LayerReplay& t : to) t.fullest_rank = t.busiest_link = t.padding = 0;
  }
  for (size_t l = 0; l < to.size(); ++l) {
    to[l].layer = step[l].layer;
    to[l].blamed = step[l].blamed;  // of the last step
    for (const auto part : kOfExperts) to[l].experts.*part += share * step[l].experts.*part;
    for (const auto part : kOfLayer) to[l].*part += share * step[l].*part;
  }
}

std::string milliseconds(double seconds) {
  return fmt::format("{:.3f}", seconds * 1e3);
}

void put_layers(Report& r, const std::vector<LayerReplay>& layers, double micro_batches) {
  for (const LayerReplay& l : layers) {
    Report& of = r.item("layers");
    of.put("layer", l.layer);
    of.put("load_max_over_mean", l.experts.max);
    of.put("load_p50_over_mean", l.experts.p50);
    of.put("load_p90_over_mean", l.experts.p90);
    of.put("load_p99_over_mean", l.experts.p99);
    of.put("gini", l.experts.gini);
    of.put("starving", l.experts.starving);
    of.put("rank_load_max_over_mean", l.fullest_rank);
    of.put("fullest_rank", l.blamed);
    of.put("fullest_rank_share", l.blamed_share);
    of.put("ib_bytes", l.ib_bytes);
    of.put("nvlink_bytes", l.nvlink_bytes);
    of.put("busiest_link_over_mean", l.busiest_link);
    of.put("nodes_per_token", l.nodes_per_token);
    of.put("dispatch_s", l.dispatch);
    of.put("combine_s", l.combine);
    of.put("experts_s", l.mlp);
    of.put("experts_of_mean_rank_s", l.mlp_of_mean);
    of.put("padding", l.padding);
  }
  // For people those that lose most.
  constexpr size_t kShown = 12;
  std::vector<size_t> order(layers.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto lost = [&](size_t i) { return 3 * (layers[i].mlp - layers[i].mlp_of_mean); };
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return lost(a) > lost(b); });
  if (order.size() > kShown) order.resize(kShown);
  Report::Table table{.columns = {{"layer", "layer"},
                                  {"max", "max"},
                                  {"p99", "p99"},
                                  {"gini", "Gini"},
                                  {"rank", "rank"},
                                  {"who", "fullest"},
                                  {"ib", "IB GB"},
                                  {"nvlink", "NVL GB"},
                                  {"dispatch", "disp. ms"},
                                  {"combine", "comb. ms"},
                                  {"experts", "exp. ms"},
                                  {"lost", "lost ms"}}};
  for (const size_t i : order) {
    const LayerReplay& l = layers[i];
    table.row({l.layer,
               fmt::format("{:.2f}", l.experts.max),
               fmt::format("{:.2f}", l.experts.p99),
               fmt::format("{:.3f}", l.experts.gini),
               fmt::format("{:.3f}", l.fullest_rank),
               fmt::format("{} ({:.0f}%)", l.blamed, 100 * l.blamed_share),
               fmt::format("{:.3g}", l.ib_bytes * 1e-9),
               fmt::format("{:.3g}", l.nvlink_bytes * 1e-9),
               milliseconds(l.dispatch),
               milliseconds(l.combine),
               milliseconds(l.mlp),
               fmt::format("{:.3g}", lost(i) * micro_batches * 1e3)});
  }
  r.say(
      fmt::format("\nlayers, {} by what their fullest rank loses:\n",
                  layers.size() > kShown ? fmt::format("{} of {}", kShown, layers.size()) : "all"));
  r.table("", std::move(table));
  r.say(
      "max, p99, Gini: tokens of experts over the mean; rank: rows of the fullest rank of an EP "
      "group\nover the mean, fullest: which, and how often; bytes: of a step, all ranks; disp., "
      "comb., exp.:\nof a micro-batch forward, busiest port, fullest rank; lost: by the step's "
      "experts, to the mean rank.\n");
}

}  // namespace

int replay(const Arguments& args) {
  Options options(
      {.name = "replay",
       .about =
           "Replays a recorded routing trace on a plan's cluster: expert and rank load, bytes "
           "over\n"
           "InfiniBand and NVLink, all-to-all and expert times by layer, and the step's time "
           "beside\n"
           "balanced routing's, under a placement of experts and their replicas. Give the trace,\n"
           "then the plan. A trace of the plan's own run is replayed rank by rank; of another "
           "layout\nor batch its micro-batches are dealt out to the ranks.",
       .examples = "  rehearse replay routing.h5 plan.yaml\n"
                   "  rehearse replay routing.h5 plan.yaml --policy best --redundant 32\n"
                   "  rehearse replay routing.h5 plan.yaml --placement map.json --replicas solved\n"
                   "  rehearse replay routing.h5 plan.yaml --policy published --redundant 64 \\\n"
                   "      --every 10 --write-placement map.json\n",
       .plan = PlanArgument::kSeveral,
       .takes = "<routing.h5> <plan.yaml>"});
  options
      .value("policy",
             "NAME",
             "how experts are placed: " + std::string(kPolicies.list()) +
                 ". published: DeepSeek's\n(EPLB); hierarchical: ours, groups whole on a node; "
                 "global: ours; best: whichever makes the simulated steps fastest,\n"
                 "each layer by itself too (the plan's expert_placement, or in-order)")
      .value("redundant", "R", "replicas of experts beside one of each, of an EP group", "0")
      .value("replicas",
             "HOW",
             "tokens go to an expert's replicas in-turn, or as a linear program for their "
             "micro-batch\nhas it (solved)",
             "in-turn")
      .value("placement",
             "FILE",
             "JSON: experts by slot, or a list of such lists, one per layer; instead of --policy")
      .value(
          "every",
          "N",
          "place anew before every N steps, by a moving average of the steps before; the weights'\n"
          "way is told (0: once, by all steps of the trace)",
          "0")
      .value(
          "group-limit",
          "G",
          "at most so many groups per token: choices beyond move to the token's other groups, by\n"
          "popularity (an estimate)")
      .value("simulate", "N", "so many of the steps, evenly spread, are simulated", "3")
      .value("calibration", "FILE", "calibration file to use instead of the plan's")
      .value("threads", "N", "clusters of GPUs: EP groups side by side on so many threads", "1")
      .flag("fit",
            "tell which skew the plan's expert_load (kind synthetic) would need to be as uneven")
      .output("timeline", "the predicted timeline of the last simulated step (ui.perfetto.dev)")
      .output("write-placement", "the (last) placement, as --placement reads it")
      .output("page",
              "write the answer as a page for a browser, with loads by layer and expert and over\n"
              "time, and who sends whom how much");
  if (!options.parse(args)) return 0;
  const std::vector<std::string> paths = options.plan_paths();
  if (paths.size() != 2) throw UsageError("replay: expected a trace, then a plan");
  const Stopwatch watch;
  Plan plan = load_plan(paths[1]);
  require_simulate(plan);
  if (plan.model.architecture.experts == 0) {
    throw InputError(plan.path + ": the model has no experts to replay");
  }
  options.check_outputs();
  const auto calibration = find_calibration(options, plan);
  use_measured_links(plan, calibration);
  Placing how{
      .policy = options.has("policy") ? choice(options, "policy", kPolicies) : Policy::kInOrder,
      .redundant = options.integer("redundant", {.min = 0, .max = 1'000'000}),
      .replicas = choice(options, "replicas", kReplicaChoices),
      .given = {},
      .every = options.integer("every", {.min = 0})};
  const Architecture& a = plan.model.architecture;
  if (options.has("placement")) {
    if (how.policy != Policy::kInOrder || how.redundant > 0 || how.every > 0) {
      throw UsageError("replay: --placement stands instead of --policy, --redundant and --every");
    }
    how.given = read_placement(options.text("placement"), a.experts, plan.layout.ep);
  } else if (plan.expert_placement && !options.has("policy") && how.redundant == 0) {
    how.given = placements_of(plan);
  } else if (const std::string wrong = why_not(
                 plan,
                 {how.policy == Policy::kBest ? PlacementPolicy::kGlobal : policy_of(how.policy),
                  how.redundant});
             !wrong.empty()) {
    throw InputError(fmt::format("{}: {}", plan.path, wrong));
  }
  const std::string given =
      options.has("placement") ? options.text("placement") : plan.expert_placement.value_or("");
  const RoutingReader reader(paths[0]);
  const RoutingShape& shape = reader.shape();
  how.given = of_layers(how.given, given, a, shape.layers);
  const int64_t groups = a.groups;
  std::optional<int64_t> limit;
  if (options.has("group-limit")) {
    limit = options.integer("group-limit", {.min = 1, .max = groups});
    if (*limit * (a.experts / groups) < a.active_experts) {
      throw InputError(fmt::format("{}: --group-limit {}: {} groups of {} experts hold no {}",
                                   plan.path,
                                   *limit,
                                   *limit,
                                   a.experts / groups,
                                   a.active_experts));
    }
  }
  const auto step_at = [&](int64_t i) {
    RecordedStep step = read_step(reader, i);
    return limit ? limited(step, groups, *limit, 1) : step;
  };
  const Program program = build_program(plan);
  validate(program);
  const LayerReplayer replayer(plan, program, calibration);
  const int64_t to_simulate =
      std::min(shape.steps, options.integer("simulate", {.min = 0, .max = 1'000'000}));
  std::set<int64_t> simulated;
  for (int64_t i = 0; i < to_simulate; ++i) {
    simulated.insert(to_simulate == 1 ? shape.steps - 1
                                      : i * (shape.steps - 1) / (to_simulate - 1));
  }
  const SimulateOptions simulate_how{
      .keep = Keep::kSummary,
      .threads = static_cast<int32_t>(options.integer("threads", {.min = 1, .max = 1024}))};
  // Of the steps that are simulated; of the trace's middle one, where none is.
  const std::set<int64_t> judged =
      simulated.empty() ? std::set<int64_t>{shape.steps / 2} : simulated;
  const auto seconds_of = [&](const RecordedStep& step, const std::vector<Placement>& placements) {
    const ReplayedRouting routing{
        .step = &step, .placements = placements, .replicas = how.replicas};
    SimulateOptions with = simulate_how;
    with.replay = &routing;
    return simulate(plan, program, calibration, with).summary.step.seconds();
  };
  const StepTime over_all = [&](const std::vector<Placement>& placements) {
    double sum = 0;
    for (const int64_t i : judged) sum += seconds_of(step_at(i), placements);
    return sum;
  };
  // Loads of all steps first, where all of them say how experts are placed.
  LayerLoads loads;
  const bool by_all = how.every == 0 && !how.in_order() && how.given.empty();
  Progress progress({.label = "replay",
                     .total = (by_all ? 2 : 1) * shape.steps + to_simulate,
                     .quiet = options.quiet()});
  int64_t done = 0;
  if (by_all) {
    for (int64_t i = 0; i < shape.steps; ++i) {
      add(loads, loads_of(step_at(i)), 1);
      progress.update(++done);
    }
  }
  std::vector<LayerReplay> layers;
  std::vector<Placement> placements = how.given;
  if (placements.empty() && how.every > 0) {  // where the first step finds experts
    placements = of_layers(placements_of(plan), given, a, shape.layers);
  }
  double moved_bytes = 0, moved_most = 0;
  int64_t times_moved = 0;
  double step_sum = 0, waiting_sum = 0;
  const bool exact = replays_exactly(plan, shape);
  Report r;
  ReplayPictures pictures(plan, shape.steps);
  const bool with_page = options.has("page");
  for (int64_t i = 0; i < shape.steps; ++i) {
    const RecordedStep step = step_at(i);
    if (by_all && i == 0) {
      placements = place(plan, how, replayer, step_at(shape.steps / 2), loads, over_all);
    }
    if (how.every > 0 && i > 0 && i % how.every == 0) {
      std::vector<Placement> next =
          place(plan, how, replayer, step, loads, [&](const std::vector<Placement>& candidate) {
            return seconds_of(step, candidate);
          });
      for (size_t l = 0; l < next.size(); ++l) {
        const Moved m = moved(
            plan,
            placements.empty() ? Placement::in_order(a.experts, plan.layout.ep) : placements[l],
            next[l]);
        moved_bytes += m.bytes;
        moved_most += m.most;
      }
      ++times_moved;
      placements = std::move(next);
    }
    if (how.every > 0) {
      constexpr double kKeep = 0.9;
      add(loads, loads_of(step), kKeep);
    }
    const ReplayedRouting routing{
        .step = &step, .placements = placements, .replicas = how.replicas};
    const std::vector<LayerReplay> of_step =
        replayer.layers(step, routing, with_page ? &pictures.traffic() : nullptr);
    if (with_page) pictures.add(step, of_step);
    add_share(layers, of_step, 1 / static_cast<double>(shape.steps));
    Report& one = r.item("steps");
    one.put("step", step.number);
    double worst = 0, mean = 0;
    for (const LayerReplay& l : of_step) {
      worst = std::max(worst, l.experts.max);
      mean += l.fullest_rank / static_cast<double>(of_step.size());
    }
    one.put("load_max_over_mean", worst);
    one.put("rank_load_max_over_mean", mean);
    progress.update(++done);
    if (!simulated.contains(i)) continue;
    SimulateOptions with = simulate_how;
    with.replay = &routing;
    const bool draw = options.has("timeline") && i == *simulated.rbegin();
    if (draw) with.keep = Keep::kAll;
    Prediction prediction = simulate(plan, program, calibration, with);
    if (draw) {
      prediction.timeline.shapes = shapes_of(plan);
      write_file(options.text("timeline"), print_timeline(program, prediction.timeline));
    }
    const Summary& s = prediction.summary;
    one.put("step_time_s", s.step);
    step_sum += s.step.seconds();
    waiting_sum += s.exchange_wait_fraction;
    progress.update(++done);
  }
  double balanced = 0;
  if (to_simulate > 0) {
    Plan even = plan;
    even.expert_load = {};
    balanced = simulate(even, program, calibration, simulate_how).summary.step.seconds();
  }
  const auto n = static_cast<double>(std::max<int64_t>(1, to_simulate));
  const double step_time = step_sum / n;
  r.say(
      fmt::format("{}: {} step{} of {} micro-batches of {} tokens, {} layers of {} experts\n"
                  "on {}: {}, {} micro-batches of {} tokens per rank\n\n",
                  paths[0],
                  shape.steps,
                  shape.steps == 1 ? "" : "s",
                  shape.micro_batches,
                  shape.tokens,
                  shape.layers,
                  shape.experts,
                  plan.cluster.name,
                  ranks_text(plan.layout),
                  plan.training.micro_batches,
                  plan.micro_batch_tokens()));
  r.put("exact", exact);
  const std::string where =
      how.given.empty()
          ? fmt::format("{}{}",
                        kPolicies[how.policy],
                        how.redundant > 0 ? fmt::format(", {} redundant", how.redundant) : "")
          : given;
  r.line("placement", "placement", where);
  r.line("ranks",
         "ranks have",
         exact ? "their own recorded micro-batches" : "recorded micro-batches, dealt out");
  if (limit) r.line("group_limit", "group limit", {fmt::format("{} (estimated)", *limit), *limit});
  if (to_simulate > 0) {
    r.line("step_time_s", "step time", Duration::seconds(step_time));
    r.line("step_time_balanced_s", "balanced", Duration::seconds(balanced));
    r.line("lost_to_imbalance", "lost to imbalance", share(1 - balanced / step_time));
    r.line("exchange_wait_fraction", "waiting in all-to-alls", share(waiting_sum / n));
    if (to_simulate < shape.steps) {
      r.say(fmt::format("  (of {} simulated steps of {})\n", to_simulate, shape.steps));
    }
  }
  if (times_moved > 0) {
    const auto& link = plan.cluster.network ? plan.cluster.network : plan.cluster.node_link;
    r.line(
        "moved_bytes",
        "weights moved",
        {fmt::format("{} each time, {:.1f} GB at most on a rank of a stage of all layers",
                     to_string(Bytes(std::llround(moved_bytes / static_cast<double>(times_moved)))),
                     moved_most / static_cast<double>(times_moved) * 1e-9),
         moved_bytes});
    if (link) {
      const double seconds =
          moved_most / static_cast<double>(times_moved) / link->bandwidth.value();
      r.line("move_s", "that takes", Duration::seconds(seconds));
    }
  }
  if (options.has("fit")) {
    double gini = 0;
    for (const LayerReplay& l : layers) {
      gini += l.experts.gini / static_cast<double>(layers.size());
    }
    const SkewFit fit = skew_like(plan, gini);
    r.line("skew",
           "fitted skew",
           {fmt::format("{:.2f} (Gini {:.3f} of {:.3f})", fit.skew, fit.gini, gini), fit.skew});
    r.put("skew_gini", fit.gini);
    r.put("trace_gini", gini);
  }
  put_layers(r, layers, static_cast<double>(plan.training.micro_batches));
  r.put("wall_s", watch.seconds());
  if (options.has("write-placement")) {
    if (placements.empty()) placements.push_back(Placement::in_order(a.experts, plan.layout.ep));
    write_file(options.text("write-placement"), print_placement(placements));
  }
  if (with_page) {
    const std::string text = print_text(r);
    pictures.put(r, plan);
    write_file(options.text("page"),
               print_page("replay",
                          fmt::format("Replay of {}", paths[0]),
                          fmt::format("{} on {}, {}; placement: {}",
                                      plan.model.name,
                                      plan.cluster.name,
                                      ranks_text(plan.layout),
                                      where),
                          r,
                          text));
  }
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
