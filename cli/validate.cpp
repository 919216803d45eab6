// rehearse validate: predicts several plans from one calibration, then runs each of them.

#include "cli/validate.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "base/statistics.h"
#include "cli/command.h"
#include "cli/disturbance.h"
#include "cli/measure.h"
#include "plan/capabilities.h"
#include "runtime/train.h"
#include "sim/predict.h"

namespace rehearse::cli {
namespace {

struct Totals {
  double mean_error = 0;   // absolute
  double worst_error = 0;  // likewise
  int64_t inside = 0;
};

Totals totals_of(std::span<const Validation> results) {
  Totals t;
  for (const Validation& v : results) {
    const double error = std::abs(v.error());
    t.mean_error += error / static_cast<double>(results.size());
    t.worst_error = std::max(t.worst_error, error);
    t.inside += v.inside();
  }
  return t;
}

// Half of the range of the runs over their median; none of one run.
Value spread_of(const Validation& v) {
  if (v.runs.size() < 2) return {"-", Value::Scalar()};
  const auto less = [](const auto& a, const auto& b) { return a.measured < b.measured; };
  const auto [least, most] = std::minmax_element(v.runs.begin(), v.runs.end(), less);
  const double spread = (most->measured - least->measured) / v.measured() / 2;
  return {fmt::format("+-{:.1f}%", 100 * spread), spread};
}

}  // namespace

std::string describe(const Plan& plan) {
  const Layout& l = plan.layout;
  std::string text = fmt::format("{} {}", ranks_text(l), name_of(l.schedule));
  text += fmt::format(
      ", {} x {}, {}", plan.training.micro_batches, plan.micro_batch_tokens(), plan.model.name);
  if (plan.cluster.linked()) text += ", links";
  return text;
}

Duration Validation::predicted() const {
  std::vector<double> values;
  for (const Run& r : runs) values.push_back(r.predicted.seconds());
  return Duration::seconds(median(std::move(values)));
}

Duration Validation::measured() const {
  std::vector<double> values;
  for (const Run& r : runs) values.push_back(r.measured.seconds());
  return Duration::seconds(median(std::move(values)));
}

std::optional<MachineLoad> Validation::load() const {
  std::vector<MachineLoad> loads;
  for (const Run& r : runs) {
    if (r.load) loads.push_back(*r.load);
  }
  if (loads.empty() || loads.size() < runs.size()) return std::nullopt;
  return together(loads);
}

const Validation::Run& Validation::run_of_median_lateness() const {
  const auto lateness = [](const Run* r) { return r->waking ? r->waking->late / r->measured : 0; };
  std::vector<const Run*> order;
  for (const Run& r : runs) order.push_back(&r);
  std::stable_sort(order.begin(), order.end(), [&](const Run* a, const Run* b) {
    return lateness(a) < lateness(b);
  });
  return *order[order.size() / 2];
}

Validation validate_plan(const Plan& plan,
                         const Calibration& calibration,
                         SpeedCheck& speed,
                         const ValidateOptions& options) {
  const Program program = build_program(plan);
  Validation v{.plan = std::filesystem::path(plan.path).stem().string(), .what = describe(plan)};
  const StepPrediction p = predict(plan, program, calibration);
  v.low = p.low / p.summary.step;
  v.high = p.high / p.summary.step;
  Progress progress({.label = options.label.empty() ? v.plan : options.label,
                     .total = options.runs * options.steps,
                     .quiet = options.quiet});
  int64_t done = 0;
  for (int64_t i = 0; i < options.runs; ++i) {
    Validation::Run run{.speed = speed.lately()};
    run.predicted =
        rehearse::simulate(plan, program, calibration, {.variation = {.common = run.speed}})
            .summary.step;
    Trainer trainer(plan, options.text);
    const TrainResult result =
        trainer.train({.steps = options.steps,
                       .validate_every = 0,
                       .validation_steps = 0,
                       .on_step = [&](const StepLog&) { progress.update(++done); }});
    run.measured = result.median_step;
    run.load = result.timeline.load;
    if (run.load) {
      const Overheads& o = calibration.overheads;
      run.waking = waking_of(
          trainer.program(), result.timeline, run.load->cores, std::max(o.wake_idle, o.wake_busy));
    }
    v.runs.push_back(run);
  }
  return v;
}

std::vector<std::string> warnings_of(std::span<const Validation> results) {
  std::vector<MachineLoad> busy;
  std::vector<const Validation*> late;
  for (const Validation& v : results) {
    const std::optional<MachineLoad> load = v.load();
    if (load && load->busy()) busy.push_back(*load);
    const Validation::Run& run = v.run_of_median_lateness();
    if (run.waking && woke_late(*run.waking, run.measured)) late.push_back(&v);
  }
  const auto when = [&](size_t count) {
    return count == results.size()
               ? std::string("this was measured")
               : fmt::format("{} of {} plans were measured", count, results.size());
  };
  std::vector<std::string> warnings;
  if (!busy.empty()) warnings.push_back(busy_warning(together(busy), when(busy.size())));
  if (!late.empty()) {
    const Validation::Run& first = late.front()->run_of_median_lateness();
    warnings.push_back(late_warning(first.waking, first.measured, when(late.size())));
  }
  return warnings;
}

Report validation_report(std::span<const Validation> results,
                         const std::vector<std::string>& further) {
  Report r;
  std::vector<std::string> warnings = further;
  const std::vector<std::string> own = warnings_of(results);
  warnings.insert(warnings.end(), own.begin(), own.end());
  put_warnings(r, warnings, "the errors below include that");
  const bool busy = std::ranges::any_of(results, [](const Validation& v) {
    const std::optional<MachineLoad> load = v.load();
    return load && load->busy();
  });
  Report::Table table{.columns = {{"", "plan"},
                                  {"", "predicted"},
                                  {"", "90% interval"},
                                  {"", "measured"},
                                  {"", "error"},
                                  {"", "runs"},
                                  {"", busy ? "cores of others" : ""},
                                  {"", "layout"}}};
  for (const Validation& v : results) {
    const std::optional<MachineLoad> load = v.load();
    table.row(
        {v.plan,
         v.predicted(),
         fmt::format("{} to {}{}", percent(v.low - 1), percent(v.high - 1), v.inside() ? "" : " !"),
         v.measured(),
         signed_share(v.error()),
         spread_of(v),
         load ? fmt::format("{:.2f} of {}", load->taken(), load->cores) : "",
         v.what});
    Report& plan = r.item("plans");
    plan.put("plan", v.plan);
    plan.put("what", v.what);
    plan.put("predicted_s", v.predicted());
    plan.put("interval_s", {v.predicted().scaled(v.low), v.predicted().scaled(v.high)});
    plan.put("measured_s", v.measured());
    plan.put("error", v.error());
    plan.put("inside_interval", v.inside());
    plan.put("runs_spread", spread_of(v));
    put_load(plan, "machine_load", load);
    put_waking(plan, v.run_of_median_lateness().waking);
    Report::Table runs{.columns = {{"machine_speed", ""}, {"predicted_s", ""}, {"measured_s", ""}}};
    for (const Validation::Run& run : v.runs)
      runs.unseen.push_back({run.speed, run.predicted, run.measured});
    plan.table("runs", std::move(runs));
  }
  r.table("", std::move(table));
  if (busy) r.say("  cores of others: taken by others while its runs were measured\n");
  const Totals t = totals_of(results);
  r.put("mean_absolute_error", t.mean_error);
  r.put("worst_absolute_error", t.worst_error);
  r.put("inside_interval", t.inside);
  r.say(fmt::format(
      "  absolute error: mean {:.1f}%, worst {:.1f}%; {} of {} inside their interval\n"
      "  error: predicted / measured - 1, below 0 where the prediction is too short\n"
      "  90% interval: of measured / predicted - 1; !: the measurement is outside\n"
      "  predicted, measured: medians over runs, of each run its median step; runs: +- half their\n"
      "  range over the median, -: of one run\n",
      100 * t.mean_error,
      100 * t.worst_error,
      t.inside,
      results.size()));
  return r;
}

int validate(const Arguments& args) {
  Options options(
      {.name = "validate",
       .about =
           "Predicts a step of each plan from one calibration, then runs it on this machine, and\n"
           "prints the predictions' errors beside the scatter of the runs. Without --calibration\n"
           "the machine is calibrated first, on a grid of shapes that knows nothing of the plans.\n"
           "Before each prediction some single kernels are timed again, and the calibration is\n"
           "scaled to the speed that the machine has shown in the last minute.",
       .examples = "  rehearse validate experiments/cpu-validation/[01]*.yaml --data book.txt\n"
                   "  rehearse validate my.yaml --data book.txt --calibration calibration.yaml\n",
       .plan = PlanArgument::kSeveral});
  options.value("data", "FILE", "text to train on, instead of the plans' data.text")
      .value("calibration", "FILE", "calibration file to use")
      .value("runs", "N", "runs of each plan", "5")
      .value("steps", "N", "steps of each run", "8")
      .value("out", "FOLDER", "output folder", "out/validate");
  if (!options.parse(args)) return 0;
  const int64_t runs = options.integer("runs", {.min = 1});
  const int64_t steps = options.integer("steps", {.min = 1});
  std::vector<Plan> plans;
  std::vector<std::string> texts;
  for (const std::string& path : options.plan_paths()) {
    plans.push_back(load_plan(path));
    const Plan& plan = plans.back();
    require_train(plan, TrainOn::kCores);
    if (!plan.cluster.on_cores()) {
      throw InputError(
          fmt::format("{}: its cluster '{}' is not of CPU cores", path, plan.cluster.name));
    }
    if (!options.has("data") && !plan.data.text) {
      throw InputError(fmt::format(
          "{}: no text to train on: give --data FILE, or the plan a key data.text", path));
    }
    texts.push_back(options.has("data") ? options.text("data") : *plan.data.text);
    const TextData check(texts.back(), plan);  // before minutes of work
  }
  const std::string out = options.text("out");
  std::vector<std::string> written{out + "/validation.json"};
  if (!options.has("calibration")) written.push_back(out + "/calibration.yaml");
  options.check_outputs(written);
  const auto say = [&](const std::string& s) {
    if (!options.json()) std::cout << s << std::flush;
  };
  const std::optional<MachineLoad> before = look_at_machine();
  std::vector<std::string> warnings{
      busy_warning(before, "this process slept, before anything was measured")};
  if (!warnings.front().empty()) say(fmt::format("warning: {}\n", warnings.front()));
  Calibration calibration;
  if (options.has("calibration")) {
    calibration = load_calibration(options.text("calibration"));
  } else {
    say("calibrating on a grid of shapes\n");
    const LoadWatch watch;
    calibration = measure({}, {.quiet = options.quiet()});
    warnings.push_back(busy_warning(watch.so_far(), "calibrating"));
    write_calibration(out + "/calibration.yaml", calibration);
  }
  SpeedCheck speed(calibration);
  std::vector<Validation> results;
  for (size_t i = 0; i < plans.size(); ++i) {
    results.push_back(
        validate_plan(plans[i],
                      calibration,
                      speed,
                      {.text = texts[i], .runs = runs, .steps = steps, .quiet = options.quiet()}));
    const Validation& v = results.back();
    say(fmt::format("  {}: predicted {}, measured {}: {}\n",
                    v.plan,
                    to_string(v.predicted()),
                    to_string(v.measured()),
                    percent(v.error())));
  }
  Report report = validation_report(results, warnings);
  put_load(report, "machine_load_before", before);
  write_file(out + "/validation.json", print_json(report));
  report.say(fmt::format("\nwritten: {}/validation.json\n", out));
  say("\n");
  options.print(report);
  return 0;
}

}  // namespace rehearse::cli
