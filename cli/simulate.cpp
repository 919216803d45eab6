// rehearse simulate: predicts one step of a plan.

#include <charconv>
#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/budget.h"
#include "cli/command.h"
#include "cli/results.h"
#include "plan/capabilities.h"

namespace rehearse::cli {

namespace po = boost::program_options;

namespace {

// "0,128,256-263"
std::vector<int64_t> read_ranks(const std::string& text, int64_t world) {
  std::vector<int64_t> ranks;
  const auto bad = [&] {
    throw UsageError(
        fmt::format("simulate: --ranks {}: expected ranks from 0 to {}, such as 0,128 or 0-7",
                    text,
                    world - 1));
  };
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t first = 0;
    int64_t last = 0;
    const char* const stop = text.data() + end;
    auto read = std::from_chars(text.data() + at, stop, first);
    if (read.ec != std::errc()) bad();
    last = first;
    if (read.ptr != stop && *read.ptr == '-') read = std::from_chars(read.ptr + 1, stop, last);
    if (read.ec != std::errc() || read.ptr != stop) bad();
    if (first < 0 || last < first || last >= world) bad();
    for (int64_t r = first; r <= last; ++r) ranks.push_back(r);
    at = end + 1;
  }
  return ranks;
}

// Of every rank asked for; where data ranks were folded, what the one that stands for it has.
Json link_load_json(const Plan& plan, const Prediction& p, const std::vector<int64_t>& asked) {
  const LinkLoad& load = p.link_load;
  const auto rate = [](const std::optional<Link>& link) {
    return link ? Json(link->bandwidth.value()) : Json();
  };
  Json ranks = Json::object();
  for (const int64_t rank : asked) {
    const int64_t dp = plan.layout.dp;
    const LinkLoad::Bins& bins = load.loads().at(rank / dp * dp + rank % dp % p.data_ranks);
    ranks[std::to_string(rank)] = {{"node_out", bins[0]},
                                   {"node_in", bins[1]},
                                   {"network_out", bins[2]},
                                   {"network_in", bins[3]}};
  }
  return {{"bin_s", load.bin().seconds()},
          {"node_bytes_per_s", rate(plan.cluster.node_link)},
          {"network_bytes_per_s", rate(plan.cluster.network)},
          {"bytes", ranks}};
}

// Calibrations of GPUs: all measured times of a kind of work ("product=1.2") are so many times as
// long.
void scale(Calibration& calibration, const std::vector<std::string>& factors) {
  if (!calibration.gpu) throw UsageError("simulate: --scale is for calibrations of GPUs");
  GpuCalibration gpu = *calibration.gpu;
  for (const std::string& text : factors) {
    const size_t equals = text.find('=');
    const auto kind = work_kind_named(text.substr(0, equals));
    double factor = 0;
    if (equals != std::string::npos) {
      const char* const end = text.data() + text.size();
      const auto read = std::from_chars(text.data() + equals + 1, end, factor);
      if (read.ec != std::errc() || read.ptr != end) factor = 0;
    }
    if (!kind || !(factor >= 0.01 && factor <= 100)) {
      throw UsageError(fmt::format(
          "simulate: --scale {}: expected a kind of work and a factor from 0.01 to 100, such as "
          "product=1.2 or data=0.9",
          text));
    }
    for (GpuEntry& e : gpu.entries) {
      if (e.kind != *kind) continue;
      for (GpuEntry::Sample& sample : e.samples) {
        sample.time = Duration::seconds(sample.time.seconds() * factor);
      }
    }
  }
  calibration.gpu = std::make_shared<const GpuCalibration>(std::move(gpu));
}

}  // namespace

int simulate(const Arguments& args) {
  Options options({.name = "simulate",
                   .about =
                       "Predicts one training step of the plan: every rank, every op. Costs come\n"
                       "from the plan's calibration; what nobody measured is priced by its\n"
                       "roofline, and the result says so.",
                   .examples = "  rehearse simulate plan.yaml\n"
                               "  rehearse simulate plan.yaml --timeline step.json --json\n"
                               "  rehearse simulate plan.yaml --ranks 0,128 --timeline two.json\n"
                               "  rehearse simulate plan.yaml --fold\n"});
  options.add()(
      "calibration", po::value<std::string>(), "calibration file to use instead of the plan's");
  options.add()("timeline",
                po::value<std::string>(),
                "write the predicted timeline there (open it in ui.perfetto.dev)")(
      "ranks",
      po::value<std::string>(),
      "put only these ranks into the timeline and link load, such as 0,128,256")(
      "link-load",
      po::value<std::string>(),
      "clusters of GPUs: write how busy the links of --ranks are, per millisecond")(
      "scale",
      po::value<std::vector<std::string>>()->composing(),
      "what if a kind of work took longer: product=1.2 (kinds: as in the calibration of GPUs)")(
      "pair",
      "instead of a step one overlapped pair of micro-batches in all layers, without embedding,\n"
      "head and step's end (plans of one pipeline rank): what a profile of DualPipe shows")(
      "fold", "clusters of GPUs: simulate data ranks that provably do the same once")(
      "no-memo", "clusters of GPUs: work out every all-to-all anew, equal ones too")(
      "threads",
      po::value<int32_t>()->default_value(1),
      "clusters of GPUs: EP groups side by side on so many threads");
  if (!options.parse(args)) return 0;
  Plan plan = load_plan(options.plan_path());
  require_simulate(plan);
  auto calibration = find_calibration(options, plan);
  if (options.has("scale")) {
    if (!calibration) throw UsageError("simulate: --scale needs a calibration of GPUs");
    scale(*calibration, options.get<std::vector<std::string>>("scale"));
  }
  use_measured_links(plan, calibration);
  if (options.has("pair") && plan.layout.pp != 1) {
    throw InputError(plan.path + ": layout.pp: --pair is of one pipeline rank; use pp: 1");
  }
  const Program program = build_program(plan, options.has("pair") ? Mode::kPair : Mode::kTrain);
  validate(program);
  SimulateOptions how{.keep = options.has("timeline") ? Keep::kAll : Keep::kSummary,
                      .memoise = !options.has("no-memo"),
                      .fold = options.has("fold"),
                      .threads = options.get<int32_t>("threads")};
  if (how.threads < 1) throw UsageError("simulate: --threads must be at least 1");
  if (options.has("ranks")) {
    if (!options.has("timeline") && !options.has("link-load")) {
      throw UsageError("simulate: --ranks needs --timeline or --link-load");
    }
    if (options.has("timeline")) how.keep = Keep::kRanks;
    how.ranks = read_ranks(options.get<std::string>("ranks"), plan.layout.world());
  }
  if (options.has("link-load")) {
    if (how.ranks.empty()) throw UsageError("simulate: --link-load needs --ranks");
    if (plan.cluster.device != DeviceKind::kGpu) {
      throw InputError(plan.path + ": --link-load is for clusters of GPUs");
    }
    how.link_load = true;
  }
  const StepPrediction prediction = predict(plan, program, calibration, options.quiet(), how);
  if (options.has("timeline")) {
    const Prediction& p = prediction.median;
    write_file(options.get<std::string>("timeline"),
               how.keep == Keep::kRanks ? print_timeline(program, p.timeline.source, p.spans)
                                        : print_timeline(program, p.timeline));
  }
  if (options.has("link-load")) {
    write_file(options.get<std::string>("link-load"),
               link_load_json(plan, prediction.median, how.ranks).dump() + "\n");
  }
  const bool gpu = plan.cluster.device == DeviceKind::kGpu && !options.has("pair");
  std::optional<BudgetResult> budget;
  if ((plan.training.tokens || !plan.budget.phases.empty()) && !options.has("pair")) {
    budget = predict_budget(plan, calibration, prediction, options.quiet());
  }
  if (options.json()) {
    Json json = prediction_json(plan, program, prediction);
    if (gpu) add_speeds(json, plan, prediction);
    if (budget) add_budget(json, *budget);
    std::cout << json.dump(2) << "\n";
  } else {
    std::cout << prediction_text(plan, program, prediction);
    if (gpu) std::cout << speeds_text(plan, prediction);
    if (budget) std::cout << budget_text(*budget);
  }
  return 0;
}

}  // namespace rehearse::cli
