// rehearse simulate: predicts one step of a plan.

#include <charconv>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/page/page.h"
#include "cli/reports.h"
#include "plan/capabilities.h"
#include "search/space.h"
#include "sim/price/what_if.h"

namespace rehearse::cli {
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

// "product=1.2"
void scale(Calibration& calibration, const std::vector<std::string>& factors) {
  if (!calibration.of_gpus()) throw UsageError("simulate: --scale is for calibrations of GPUs");
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
    if (calibration.device) {
      calibration.device = scaled(*calibration.device, *kind, factor);
    } else {
      calibration.gpu =
          std::make_shared<const GpuCalibration>(scaled(*calibration.gpu, *kind, factor));
    }
  }
}

SimulateOptions read_options(const Options& options, const Plan& plan) {
  SimulateOptions how{
      .keep = options.has("timeline") ? Keep::kAll : Keep::kSummary,
      .memoise = !options.has("no-memo"),
      .fold = options.has("fold"),
      .threads = static_cast<int32_t>(options.integer("threads", {.min = 1, .max = 1024}))};
  if (options.has("ranks")) {
    if (!options.has("timeline") && !options.has("link-load")) {
      throw UsageError("simulate: --ranks needs --timeline or --link-load");
    }
    if (options.has("timeline")) how.keep = Keep::kRanks;
    how.ranks = read_ranks(options.text("ranks"), plan.layout.world());
  }
  if (options.has("link-load")) {
    if (how.ranks.empty()) throw UsageError("simulate: --link-load needs --ranks");
    if (!plan.cluster.of_gpus()) {
      throw InputError(plan.path + ": --link-load is for clusters of GPUs");
    }
    how.link_load = true;
  }
  return how;
}

StepPrediction predict_with_progress(const Plan& plan,
                                     const Program& program,
                                     const std::optional<Calibration>& calibration,
                                     SimulateOptions how,
                                     bool quiet) {
  constexpr int64_t kShown = 4'000'000;  // ops: from some seconds on
  Progress progress({.label = "simulate",
                     .total = program.global_size(),
                     .quiet = quiet || how.fold || program.global_size() < kShown});
  how.progress = [&](int64_t done) { progress.update(done); };
  return predict(plan, program, calibration, how);
}

std::optional<BudgetResult> budget_of(const Plan& plan,
                                      const std::optional<Calibration>& calibration,
                                      const StepPrediction& prediction,
                                      bool quiet) {
  if (!plan.training.tokens && plan.budget.phases.empty()) return std::nullopt;
  std::optional<Progress> progress;
  return predict_budget(plan, calibration, prediction, [&](int64_t done, int64_t all) {
    if (!progress)
      progress.emplace(Progress::Options{.label = "phases", .total = all, .quiet = quiet});
    progress->update(done);
  });
}

}  // namespace

int simulate(const Arguments& args) {
  Options options({.name = "simulate",
                   .about =
                       "Predicts one training step of the plan: every rank, every op. Costs come\n"
                       "from the plan's calibration; what nobody measured takes what flops\n"
                       "and bytes allow, and the result says so.",
                   .examples = "  rehearse simulate plan.yaml\n"
                               "  rehearse simulate plan.yaml --timeline step.json --json\n"
                               "  rehearse simulate plan.yaml --ranks 0,128 --timeline two.json\n"
                               "  rehearse simulate plan.yaml --fold\n"});
  options.value("calibration", "FILE", "calibration file to use instead of the plan's")
      .output("timeline", "write the predicted timeline there (open it in ui.perfetto.dev)")
      .value("ranks",
             "RANKS",
             "put only these ranks into the timeline and link load, such as 0,128,256 or 0-7")
      .output("link-load",
              "clusters of GPUs: write how busy the links of --ranks are, per millisecond")
      .values(
          "scale",
          "KIND=FACTOR",
          "what if a kind of work took longer, such as product=1.2; kinds: product (matrix\n"
          "products), attention (its core), cast (to FP8 and back, transposes), norm, rope,\n"
          "activation (SwiGLU, GeLU), permute (rows to experts and back), gate (router), "
          "elementwise,\n"
          "stream (large arrays once through: loss, optimizer, embedding), data (all-to-alls' on "
          "its way),\nwaiting (for other ranks), gap (between kernels)")
      .flag("pair",
            "instead of a step one overlapped pair of micro-batches in all layers, without "
            "embedding,\nhead and step's end (plans of one pipeline rank): what a profile of "
            "DualPipe shows")
      .flag(
          "fold",
          "clusters of GPUs: simulate data ranks that provably do the same (equal loads, links and "
          "distances) once: the same result, sooner; the report says what was not folded and why")
      .flag("no-memo", "clusters of GPUs: work out every all-to-all anew, equal ones too")
      .output("page", "write the prediction as a page for a browser, complete in itself")
      .value("threads", "N", "clusters of GPUs: EP groups side by side on so many threads", "1");
  if (!options.parse(args)) return 0;
  Plan plan = load_plan(options.plan_path());
  require_simulate(plan);
  if (!plan.cluster.of_gpus()) {
    options.refuse({"fold", "no-memo", "threads", "link-load"}, "is for clusters of GPUs");
  }
  options.check_outputs();
  auto calibration = find_calibration(options, plan);
  if (options.has("scale")) {
    if (!calibration) throw UsageError("simulate: --scale needs a calibration of GPUs");
    scale(*calibration, options.texts("scale"));
  }
  use_measured_links(plan, calibration);
  const bool pair = options.has("pair");
  if (pair) options.refuse({"page"}, "is of whole steps");
  if (pair && plan.layout.pp != 1) {
    throw InputError(plan.path + ": layout.pp: --pair is of one pipeline rank; use pp: 1");
  }
  const Program program = build_program(plan, pair ? Mode::kPair : Mode::kTrain);
  validate(program);
  const SimulateOptions how = read_options(options, plan);
  StepPrediction prediction =
      predict_with_progress(plan, program, calibration, how, options.quiet());
  prediction.median.timeline.calibrated = calibration.has_value();
  const Prediction& p = prediction.median;
  if (options.has("timeline")) {
    Timeline timeline = p.timeline;
    timeline.shapes = shapes_of(plan);
    write_file(options.text("timeline"),
               how.keep == Keep::kRanks ? print_timeline(program, timeline, p.spans)
                                        : print_timeline(program, timeline));
  }
  if (options.has("link-load")) {
    std::vector<std::pair<int64_t, int64_t>> asked;
    for (const int64_t rank : how.ranks) asked.emplace_back(rank, p.stand_in(plan.layout, rank));
    write_file(options.text("link-load"), print_link_load(p.link_load, asked, plan.cluster));
  }
  const auto budget =
      pair ? std::nullopt : budget_of(plan, calibration, prediction, options.quiet());
  Report report =
      prediction_report(plan, program, prediction, plan.cluster.of_gpus() && !pair, budget);
  if (options.has("page")) {
    const std::string text = print_text(report);
    Report page = prediction_report(plan, program, prediction, plan.cluster.of_gpus(), budget);
    page.put_object("timeline", cells_of(plan, calibration));
    put_cell_kinds(page);
    write_file(
        options.text("page"),
        print_page("simulate",
                   fmt::format("{} on {}: one step", plan.model.name, plan.cluster.name),
                   fmt::format("{}, predicted from {}", to_string(candidate_of(plan)), plan.path),
                   page,
                   text));
  }
  options.print(report);
  return 0;
}

}  // namespace rehearse::cli
