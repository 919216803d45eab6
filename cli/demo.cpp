// rehearse demo: calibrate, predict, train, compare, on this machine, in minutes.

#include <algorithm>
#include <iostream>

#include <fmt/format.h>

#include "base/call_files.h"
#include "base/file.h"
#include "base/folder_lock.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/disturbance.h"
#include "cli/measure.h"
#include "cli/plot.h"
#include "cli/reports.h"
#include "cli/validate.h"
#include "plan/capabilities.h"
#include "runtime/train.h"

namespace rehearse::cli {
namespace {

// What each part may take on this machine, so that the first prediction is there within a minute
// and the end within four: the number of rounds, of steps and of runs follows from how fast the
// machine shows itself to be.
const Duration kCalibrate = Duration::seconds(35);
const Duration kTrain = Duration::seconds(45);    // each of two trainings
const Duration kOverlap = Duration::seconds(16);  // each of two emulated trainings
const Duration kLayouts = Duration::seconds(40);  // all other layouts together
constexpr int64_t kFewestSteps = 20;

struct TrainedRun {
  TrainResult result;
  Program program;
  double bigram = 0;
  std::vector<StepLog> shown;  // the first step and those that were validated
};

TrainedRun train_run(const Plan& plan,
                     const std::string& text,
                     const std::string& label,
                     const std::string& out,
                     bool quiet) {
  Trainer trainer(plan, text);
  Progress progress({.label = label, .total = plan.training.steps, .quiet = quiet});
  std::string log;
  std::vector<StepLog> shown;
  TrainResult result =
      trainer.train({.steps = plan.training.steps,
                     .validate_every = std::max<int64_t>(1, plan.training.steps / 6),
                     .validation_steps = 8,
                     .on_step = [&](const StepLog& step) {
                       log += print_step(step) + "\n";
                       if (step.step == 0 || step.validation_loss) shown.push_back(step);
                       progress.update(step.step + 1, fmt::format("loss {:.3f}", step.loss));
                     }});
  write_file(out + "/log.jsonl", log);
  write_file(out + "/timeline.json", print_timeline(trainer.program(), result.timeline));
  return {.result = std::move(result),
          .program = trainer.program(),
          .bigram = trainer.data().bigram_loss(),
          .shown = std::move(shown)};
}

std::string loss_table(const TrainedRun& run) {
  Report::Table table{.columns = {{"", "step"},
                                  {"", "training loss"},
                                  {"", "validation loss"},
                                  {"", "largest expert load"}}};
  for (const StepLog& log : run.shown) {
    table.row({std::to_string(log.step + 1),
               fmt::format("{:.3f}", log.loss),
               log.validation_loss ? fmt::format("{:.3f}", *log.validation_loss) : "",
               fmt::format("{:.2f} x mean", log.max_expert_load)});
  }
  return print_text(table) +
         fmt::format("  bigram baseline on the same split: {:.3f} nats per byte\n", run.bigram);
}

// The cluster with all its rates divided by `factor`: communication stays to computation as it was.
Cluster slowed(Cluster c, double factor) {
  c.peak = FlopsPerSecond(c.peak.value() / factor);
  for (BytesPerSecond* rate :
       {&c.memory_bandwidth, &c.node_link->bandwidth, &c.network->bandwidth}) {
    *rate = BytesPerSecond(rate->value() / factor);
  }
  return c;
}

// How much an emulated cluster must be slowed for the cores that the calibration is of to keep up
// with the plan's ranks: its step is then what it would be if cores took no time. At most some
// eight times, where a step takes a minute: then the run says by how much ops overran. speed: of
// the cores' times now, over the calibration's.
double keeps_up(const Plan& plan,
                const Program& program,
                const Calibration& calibration,
                double speed) {
  constexpr double kKeptUp = 1.005;
  constexpr double kMargin = 1.1;  // by which the machine may slow down in the next minute
  constexpr double kMost = 8;
  double factor = 1;
  for (; factor < kMost; factor *= 1.25) {
    Plan slower = plan;
    slower.cluster = slowed(plan.cluster, factor);
    const auto step = [&](const std::optional<Calibration>& c) {
      return rehearse::simulate(slower,
                                program,
                                c,
                                {.variation = {.common = speed * kMargin}, .keep = Keep::kSummary})
          .summary.step;
    };
    if (step(calibration) / step(std::nullopt) < kKeptUp) break;
  }
  return factor;
}

std::vector<Plan> overlap_plans() {
  std::vector<Plan> plans;
  for (const std::string schedule : {"1f1b", "dualpipe"}) {
    plans.push_back(load_plan(share_folder() + "/experiments/overlap/" + schedule + ".yaml"));
  }
  return plans;
}

// DualPipe beside 1F1B on two emulated nodes, where communication takes as long as computation.
// Adds a comparison of each to `report`.
void overlap(const std::string& text,
             const Calibration& calibration,
             SpeedCheck& speed_check,
             const std::string& out,
             bool quiet,
             Report& report) {
  Report::Table table{.columns = {{"", "PP2 DP2 EP2"},
                                  {"", "predicted step"},
                                  {"", "measured"},
                                  {"", "error"},
                                  {"", "exposed, predicted"},
                                  {"", "measured"}}};
  Duration step[2];
  Report& results = report.section("overlap");
  std::vector<Plan> plans = overlap_plans();
  const double speed = speed_check.lately();
  double factor = 1;
  for (const Plan& plan : plans) {
    factor = std::max(factor, keeps_up(plan, build_program(plan), calibration, speed));
  }
  results.put("slowed", factor);
  if (factor > 1) {
    report.say(fmt::format(
        "  (devices and links slowed {:.2f} times, so that this machine's cores keep up)\n",
        factor));
  }
  Overruns overruns;
  std::vector<MachineLoad> loads;
  for (Plan& plan : plans) {
    plan.cluster = slowed(plan.cluster, factor);
    const std::string schedule(name_of(plan.layout.schedule));
    const Program program = build_program(plan);
    Timeline predicted =
        rehearse::simulate(plan, program, calibration, {.variation = {.common = speed}}).timeline;
    predicted.calibrated = true;
    plan.training.steps =
        std::clamp<int64_t>(static_cast<int64_t>(kOverlap / predicted.step()), 1, 2);
    const TrainedRun run =
        train_run(plan, text, "emulated cluster, " + schedule, out + "/" + schedule, quiet);
    const Comparison c =
        compare_timelines(program, predicted, run.result.timeline, calibration.overheads);
    overruns += run.result.overruns;
    if (c.load) loads.push_back(*c.load);
    table.row({schedule,
               c.predicted_step,
               c.measured_step,
               signed_share(c.step_error),
               share(c.predicted.exposed_comm_fraction),
               share(c.measured.exposed_comm_fraction)});
    results.put_object(schedule, comparison_report(c));
    step[schedule == "dualpipe"] = c.measured_step;
  }
  if (!loads.empty()) {
    const std::string busy = busy_warning(together(loads), "these steps were measured");
    if (!busy.empty()) report.say(fmt::format("  warning: {}\n", busy));
  }
  report.table("", std::move(table));
  report.say("  error: predicted / measured - 1; exposed: communication without computation\n");
  results.put("overrun_s", overruns.time);
  report.say(fmt::format(
      "  {} of {} ops took longer than their device's time, by {:.1f}% of the time of all\n",
      overruns.ops,
      overruns.of,
      100 * (overruns.time / overruns.held)));
  report.say(fmt::format("  DualPipe's measured step is {:.1f}% shorter than 1F1B's\n",
                         100 * (1 - step[1] / step[0])));
}

// The plan on other layouts, those of them that its model and micro-batches allow. Routing is
// balanced, as it is on average once a model has trained for a while.
std::vector<Plan> other_layouts(const Plan& plan) {
  const auto& a = plan.model.architecture;
  std::vector<Plan> plans;
  for (const Layout& l : {Layout{.pp = 1},
                          Layout{.pp = 2},
                          Layout{.pp = 2, .schedule = ScheduleKind::kZB1P},
                          Layout{.dp = 2, .ep = 2}}) {
    if (a.layers < l.pp || (l.ep > 1 && (a.experts == 0 || a.experts % l.ep != 0))) continue;
    Plan other = plan;
    other.layout = l;
    other.layout.layers_per_stage = even_layers(a.layers, l.stages());
    other.routing = Routing::kBalanced;
    plans.push_back(std::move(other));
  }
  return plans;
}

// Predicts and runs the other layouts of a plan whose own step took `first_step`.
std::vector<Validation> run_layouts(const std::vector<Plan>& plans,
                                    const Calibration& calibration,
                                    SpeedCheck& speed,
                                    const std::string& text,
                                    Duration first_step,
                                    bool quiet) {
  std::vector<Validation> others;
  constexpr int64_t kRuns = 3;
  constexpr int64_t kSteps = 8;
  // A layout's step takes about as long as the first one's: the same work on the same cores.
  const Duration each = kLayouts.scaled(1 / static_cast<double>(plans.size() * kRuns));
  const int64_t steps = std::clamp<int64_t>(static_cast<int64_t>(each / first_step), 3, kSteps);
  for (const Plan& other : plans) {
    others.push_back(validate_plan(other,
                                   calibration,
                                   speed,
                                   {.text = text,
                                    .runs = kRuns,
                                    .steps = steps,
                                    .quiet = quiet,
                                    .label = "run " + describe(other)}));
    others.back().plan = "other layout";
  }
  return others;
}

// Draws what was trained, and says what is where and what to try next.
std::string what_was_written(const std::string& out,
                             const TrainedRun& run,
                             const std::string& text) {
  const auto picture = [&](const std::string& name,
                           const std::string& script,
                           const std::vector<std::string>& arguments) {
    const std::optional<std::string> drawn = plot(script, arguments, picture_format(name));
    if (drawn) write_file(out + "/" + name, *drawn);
    return drawn.has_value();
  };
  const bool pictured = picture(
      "timelines.png", "timelines.py", {"--", out + "/predicted.json", out + "/timeline.json"});
  const bool plotted = picture(
      "loss.png", "loss.py", {"--bigram", fmt::format("{}", run.bigram), "--", out + "/log.jsonl"});
  const char* missing = "not drawn: plots/ needs python3 and matplotlib";
  return fmt::format(
      "written to {0}:\n"
      "  loss.png          {1}\n"
      "  timelines.png     {2}\n"
      "  log.jsonl         every step\n"
      "  predicted.json, timeline.json\n"
      "                    both timelines; open them in https://ui.perfetto.dev\n"
      "  calibration.yaml  what was measured in step 1\n"
      "\nWhat to try next:\n"
      "  rehearse inspect experiments/demo/plan.yaml            the schedule, cell by cell\n"
      "  cp experiments/demo/plan.yaml my.yaml                  edit pp, schedule, widths, ...\n"
      "  rehearse validate my.yaml --data {3}\n"
      "                                                         calibrate, predict and run it\n"
      "  rehearse simulate experiments/deepseek-v3-budget/plan.yaml\n"
      "                                                         DeepSeek-V3's training on 2048 "
      "GPUs: "
      "hours, days, cost\n\n",
      out,
      plotted ? "the loss curve" : missing,
      pictured ? "the predicted step above the measured one" : missing,
      text);
}

// How many steps, at most `most`, fit `time`.
int64_t steps_in(Duration time, Duration step, int64_t most) {
  const auto fit = static_cast<int64_t>(time / step);
  return std::clamp(fit, std::min(kFewestSteps, most), most);
}

}  // namespace

int demo(const Arguments& args) {
  Options options(
      {.name = "demo",
       .about =
           "The whole of Rehearse, small: measures this machine's kernels, predicts a step of a\n"
           "miniature DeepSeek-V3 on two pipeline ranks with DualPipe, trains it on text, and\n"
           "compares prediction and measurement op by op. A second training without expert\n"
           "balancing shows what that does. `make demo` runs it on a text that it installs. On a\n"
           "slow machine it takes fewer steps, and says so: the end comes within four minutes.",
       .examples = "  make demo\n  rehearse demo --data book.txt\n",
       .plan = PlanArgument::kNone});
  options.value("data", "FILE", "text to train on")
      .value("plan", "FILE", "another plan (default: experiments/demo/plan.yaml)")
      .value("steps", "N", "training steps, instead of as many as fit, at most the plan's")
      .value("out", "FOLDER", "output folder", "out/demo");
  if (!options.parse(args)) return 0;
  if (!options.has("data")) throw UsageError("demo: --data FILE is needed; `make demo` brings one");
  const std::string text = options.text("data");
  const std::string out = options.text("out");
  Plan plan = load_plan(options.has("plan") ? options.text("plan")
                                            : share_folder() + "/experiments/demo/plan.yaml");
  require_train(plan, TrainOn::kCores);
  // Before minutes of work.
  const TextData check(text, plan);
  claim_output_folder(out);
  const FolderLock lock(out, "rehearse demo");
  std::optional<int64_t> asked;
  if (options.has("steps")) asked = options.integer("steps", {.min = 1});
  const Program program = build_program(plan);
  // Everything is shown as soon as it is there, and reported as a whole for programs.
  Report whole;
  const auto say = [&](const std::string& s) {
    if (!options.json()) std::cout << s << std::flush;
  };
  const auto show = [&](const std::string& key, Report report) {
    say(print_text(report));
    whole.put_object(key, std::move(report));
  };

  const std::optional<MachineLoad> before = look_at_machine();
  std::vector<std::string> warnings{
      busy_warning(before, "this process slept, before anything was measured")};
  if (!warnings.front().empty()) say(fmt::format("warning: {}\n\n", warnings.front()));
  put_load(whole, "machine_load_before", before);
  say(fmt::format("1. Calibrate: time every kernel of the plan on {} cores\n", host_cores()));
  // The kernels of the layouts that come last too: single ones, whose shapes differ little.
  std::vector<Plan> plans = other_layouts(plan);
  plans.push_back(plan);
  const size_t shown = plans.size() - 1;
  for (Plan& p : overlap_plans()) plans.push_back(std::move(p));
  const LoadWatch watch;
  const Calibration calibration =
      measure(plans, {.grid = false, .limit = kCalibrate, .quiet = options.quiet()});
  warnings.push_back(busy_warning(watch.so_far(), "calibrating"));
  if (!warnings.back().empty()) say(fmt::format("  warning: {}\n", warnings.back()));
  plans.resize(shown);
  write_calibration(out + "/calibration.yaml", calibration);
  say(fmt::format(
      "  {} kernel calls, {} rounds\n", calibration.kernels.size(), calibration.drift.size()));

  say("\n2. Predict, before anything is trained\n\n");
  StepPrediction prediction = predict(plan, program, calibration);
  prediction.median.timeline.calibrated = true;
  write_file(out + "/predicted.json", print_timeline(program, prediction.median.timeline));
  show("prediction", prediction_report(plan, program, prediction));

  const int64_t wanted = plan.training.steps;
  plan.training.steps = asked ? *asked : steps_in(kTrain, prediction.summary.step, wanted);
  say(fmt::format("\n3. Train {} steps on {} bytes of {}\n",
                  plan.training.steps,
                  check.training_tokens(),
                  text));
  if (plan.training.steps < wanted) {
    say(fmt::format(
        "  (of the plan's {}: as many as this machine does in {})\n", wanted, to_string(kTrain)));
  }
  const TrainedRun run = train_run(plan, text, "train", out, options.quiet());
  say("\n");
  show("training", training_report(plan, run.program, run.result));
  say("\n" + loss_table(run));

  say("\n4. The same without expert balancing (bias_update_speed 0)\n");
  Plan unbalanced = plan;
  unbalanced.training.bias_update_speed = 0;
  const TrainedRun plain =
      train_run(unbalanced, text, "train without balancing", out + "/unbalanced", options.quiet());
  say(
      fmt::format("  largest expert load at the end: {:.2f} x mean with balancing, {:.2f} x mean "
                  "without\n",
                  run.result.max_expert_load,
                  plain.result.max_expert_load));
  whole.put("max_expert_load_without_balancing", plain.result.max_expert_load);
  whole.put("bigram_loss", run.bigram);

  say("\n5. Compare, op by op (a measured step of median time)\n\n");
  const Comparison comparison = compare_timelines(
      program, prediction.median.timeline, run.result.timeline, calibration.overheads);
  show("comparison", comparison_report(comparison));
  say(fmt::format("\npredicted step {}, measured {} (median of {} steps): error {}\n",
                  to_string(prediction.summary.step),
                  to_string(run.result.median_step),
                  run.result.steps,
                  percent(prediction.summary.step / run.result.median_step - 1)));

  say("\n6. What DualPipe is for: four ranks on two emulated nodes, communication as large as "
      "computation\n");
  Report emulated;
  SpeedCheck speed(calibration);
  overlap(text, calibration, speed, out + "/overlap", options.quiet(), emulated);
  say(print_text(emulated));
  whole.merge(std::move(emulated));

  say("\n7. Other layouts, predicted from the calibration of step 1, then run\n\n");
  std::vector<Validation> others =
      run_layouts(plans, calibration, speed, text, run.result.median_step, options.quiet());
  whole.put_object("layouts", validation_report(others));
  whole.put("out", out);
  say(what_was_written(out, run, text));
  Validation main_plan{.plan = "the demo",
                       .what = describe(plan) + ", learned routing",
                       .runs = {{.predicted = prediction.summary.step,
                                 .measured = run.result.median_step,
                                 .load = comparison.load,
                                 .waking = comparison.waking}},
                       .low = prediction.low / prediction.summary.step,
                       .high = prediction.high / prediction.summary.step};
  others.insert(others.begin(), main_plan);
  const std::vector<std::string> while_measured = warnings_of(others);
  say("Predicted and measured\n\n" + print_text(validation_report(others, warnings)));
  warnings.insert(warnings.end(), while_measured.begin(), while_measured.end());
  put_warnings(whole, warnings, "");
  if (options.json()) std::cout << print_json(whole);
  return 0;
}

}  // namespace rehearse::cli
