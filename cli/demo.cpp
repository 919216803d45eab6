// rehearse demo: calibrate, predict, train, compare, on this machine, in minutes.

#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/comparison.h"
#include "cli/measure.h"
#include "cli/plot.h"
#include "cli/results.h"
#include "cli/validate.h"
#include "plan/capabilities.h"
#include "runtime/train.h"

namespace rehearse::cli {
namespace {

namespace po = boost::program_options;

struct TrainedRun {
  TrainResult result;
  std::vector<StepLog> shown;  // the first step and those that were validated
  Program program;
  double bigram = 0;
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
          .shown = std::move(shown),
          .program = trainer.program(),
          .bigram = trainer.data().bigram_loss()};
}

std::string loss_table(const std::vector<StepLog>& steps, double bigram) {
  Table table({"step", "training loss", "validation loss", "largest expert load"});
  for (const StepLog& log : steps) {
    table.row({std::to_string(log.step + 1),
               fmt::format("{:.3f}", log.loss),
               log.validation_loss ? fmt::format("{:.3f}", *log.validation_loss) : "",
               fmt::format("{:.2f} x mean", log.max_expert_load)});
  }
  return table.text() +
         fmt::format("  bigram baseline on the same split: {:.3f} nats per byte\n", bigram);
}

// DualPipe beside 1F1B on two emulated nodes, where communication takes as long as computation.
Json overlap(const std::string& text, const std::string& out, bool quiet, std::string& shown) {
  Table table(
      {"PP2 DP2 EP2", "predicted step", "measured", "error", "exposed, predicted", "measured"});
  Json results = Json::object();
  double step[2] = {0, 0};
  for (const std::string schedule : {"1f1b", "dualpipe"}) {
    Plan plan = load_plan(share_folder() + "/experiments/overlap/" + schedule + ".yaml");
    plan.training.steps = 2;
    const Program program = build_program(plan);
    const TrainedRun run =
        train_run(plan, text, "emulated cluster, " + schedule, out + "/" + schedule, quiet);
    const Comparison c = compare_timelines(
        program, rehearse::simulate(plan, program, std::nullopt).timeline, run.result.timeline);
    table.row({schedule,
               to_string(c.predicted_step),
               to_string(c.measured_step),
               percent(c.step_error),
               fmt::format("{:.1f}%", 100 * c.predicted.exposed_comm_fraction),
               fmt::format("{:.1f}%", 100 * c.measured.exposed_comm_fraction)});
    results[schedule] = comparison_json(c);
    step[schedule == "dualpipe"] = c.measured_step.seconds();
  }
  shown = table.text() + fmt::format("  DualPipe's measured step is {:.1f}% shorter than 1F1B's\n",
                                     100 * (1 - step[1] / step[0]));
  return results;
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

}  // namespace

int demo(const Arguments& args) {
  Options options(
      {.name = "demo",
       .about =
           "The whole of Rehearse, small: measures this machine's kernels, predicts a step of a\n"
           "miniature DeepSeek-V3 on two pipeline ranks with DualPipe, trains it on text, and\n"
           "compares prediction and measurement op by op. A second training without expert\n"
           "balancing shows what that does. `make demo` runs it on a text that it installs.",
       .examples = "  make demo\n  rehearse demo --data book.txt\n",
       .plan = PlanArgument::kNone});
  options.add()("data", po::value<std::string>(), "text to train on");
  options.add()(
      "plan", po::value<std::string>(), "another plan (default: experiments/demo/plan.yaml)");
  options.add()("steps", po::value<int64_t>(), "training steps, instead of the plan's");
  options.add()("out", po::value<std::string>()->default_value("out/demo"), "output folder");
  if (!options.parse(args)) return 0;
  if (!options.has("data")) throw UsageError("demo: --data FILE is needed; `make demo` brings one");
  const std::string text = options.get<std::string>("data");
  const std::string out = options.get<std::string>("out");
  Plan plan = load_plan(options.has("plan") ? options.get<std::string>("plan")
                                            : share_folder() + "/experiments/demo/plan.yaml");
  if (options.has("steps")) plan.training.steps = options.get<int64_t>("steps");
  require_run(plan);
  const TextData check(text, plan);  // before minutes of work
  const Program program = build_program(plan);
  const auto say = [&](const std::string& s) {
    if (!options.json()) std::cout << s << std::flush;
  };

  say(fmt::format("1. Calibrate: time every kernel of the plan on {} cores\n", host_cores()));
  // The kernels of the layouts that come last too: single ones, whose shapes differ little.
  std::vector<Plan> plans = other_layouts(plan);
  plans.push_back(plan);
  const Calibration calibration = measure(plans, {.grid = false, .quiet = options.quiet()});
  plans.pop_back();
  write_file(out + "/calibration.yaml", print_calibration(calibration));

  say("\n2. Predict, before anything is trained\n\n");
  const StepPrediction prediction = predict(plan, program, calibration, options.quiet());
  write_file(out + "/predicted.json", print_timeline(program, prediction.median.timeline));
  say(prediction_text(plan, program, prediction));

  say(fmt::format("\n3. Train {} steps on {} bytes of {}\n",
                  plan.training.steps,
                  check.training_bytes(),
                  text));
  const TrainedRun run = train_run(plan, text, "train", out, options.quiet());
  say("\n" + training_text(plan, run.program, run.result) + "\n" +
      loss_table(run.shown, run.bigram));

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

  say("\n5. Compare, op by op (the measured step of median time)\n\n");
  const Comparison comparison =
      compare_timelines(program, prediction.median.timeline, run.result.timeline);
  say(comparison_text(comparison));
  const double error = prediction.summary.step / run.result.median_step - 1;
  say(fmt::format("\npredicted step {}, measured {} (median of {} steps): error {}\n",
                  to_string(prediction.summary.step),
                  to_string(run.result.median_step),
                  run.result.steps,
                  percent(error)));

  say("\n6. What DualPipe is for: four ranks on two emulated nodes, communication as large as "
      "computation\n");
  std::string shown;
  const Json overlapped = overlap(text, out + "/overlap", options.quiet(), shown);
  say(shown);

  say("\n7. Other layouts, predicted from the calibration of step 1, then run\n\n");
  SpeedCheck speed(calibration);
  std::vector<Validation> others;
  for (const Plan& other : plans) {
    others.push_back(validate_plan(
        other, calibration, speed, {.text = text, .runs = 3, .quiet = options.quiet()}));
  }

  const bool pictured =
      plot("timelines.py",
           {out + "/predicted.json", out + "/timeline.json", "--out", out + "/timelines.png"});
  const bool plotted = plot(
      "loss.py",
      {out + "/log.jsonl", "--bigram", fmt::format("{}", run.bigram), "--out", out + "/loss.png"});
  if (options.json()) {
    Json json = {{"prediction", prediction_json(plan, program, prediction)},
                 {"training", training_json(plan, run.program, run.result)},
                 {"max_expert_load_without_balancing", plain.result.max_expert_load},
                 {"bigram_loss", run.bigram},
                 {"comparison", comparison_json(comparison)},
                 {"overlap", overlapped},
                 {"layouts", validation_json(others)},
                 {"out", out}};
    std::cout << json.dump(2) << "\n";
    return 0;
  }
  const char* missing = "not drawn: plots/ needs python3 and matplotlib";
  say(fmt::format(
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
      text));
  Validation main_plan{
      .plan = "the demo",
      .what = describe(plan) + ", learned routing",
      .runs = {{.predicted = prediction.summary.step, .measured = run.result.median_step}},
      .low = prediction.low / prediction.summary.step,
      .high = prediction.high / prediction.summary.step};
  others.insert(others.begin(), main_plan);
  for (size_t i = 1; i < others.size(); ++i) others[i].plan = "other layout";
  say("Predicted and measured\n\n" + validation_text(others));
  return 0;
}

}  // namespace rehearse::cli
