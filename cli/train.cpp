// rehearse train: runs the plan.

#include "runtime/train.h"

#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/reports.h"
#include "plan/capabilities.h"
#include "plan/routing/routing_file.h"

namespace rehearse::cli {

namespace {

constexpr int kSignalled = 128;  // an exit code beyond it says which signal

// A full disk takes one result, not the others: what fails is told at once, and work goes on.
class Failures {
 public:
  void add(const std::string& what) {
    std::cerr << what << "\n";
    any_ = true;
  }
  template <typename Work>
  void attempt(Work work) {
    try {
      work();
    } catch (const InputError& e) {
      add(e.what());
    }
  }
  bool any() const { return any_; }

 private:
  bool any_ = false;
};

// Micro-batches of all data ranks, one rank's after the other's.
void record_routing(const Plan& plan, Trainer& trainer, const std::string& path) {
  const Architecture& a = plan.model.architecture;
  const int64_t per_rank = plan.training.micro_batches;
  RoutingWriter writer(path,
                       {.micro_batches = plan.layout.dp * per_rank,
                        .layers = a.layers - a.dense_layers(),
                        .tokens = plan.micro_batch_tokens(),
                        .active = a.active_experts,
                        .experts = a.experts});
  for (int32_t d = 0; d < plan.layout.dp; ++d) {
    for (int64_t m = 0; m < per_rank; ++m) {
      for (int64_t layer = a.dense_layers(); layer < a.layers; ++layer) {
        writer.write(
            d * per_rank + m, layer - a.dense_layers(), trainer.recorded_choices(layer, d, m));
      }
    }
  }
  writer.finish();
}

}  // namespace

int train(const Arguments& args) {
  Options options(
      {.name = "train",
       .about =
           "Trains the plan's model on plain text (one token per byte), as the plan lays it\n"
           "out, with every op timed. Writes into the output folder:\n"
           "  log.jsonl      a JSON object per step: loss, gradient norm, learning rate, time,\n"
           "                 tokens/s, expert load per layer, memory\n"
           "  timeline.json  the measured timeline of a step of median time (ui.perfetto.dev)\n"
           "  result.json    what --json prints\n"
           "log.jsonl grows as steps end, the others come at the end. Ctrl-C (SIGINT) or SIGTERM\n"
           "let the step end, write what there is, and exit with 130 or 143.",
       .examples = "  rehearse train plan.yaml --data book.txt\n"
                   "  rehearse train plan.yaml --data book.txt --steps 20 --json\n"});
  options.value("data", "FILE", "text file, instead of the plan's data.text")
      .value("steps", "N", "steps to run, instead of the plan's training.steps")
      .value(
          "validate-every", "N", "validate after every so many steps (0: after the last one)", "0")
      .value("hang-timeout",
             "SECONDS",
             "time without any op ending after which the run is given up with a report",
             fmt::format("{:g}", kDefaultHangTimeout.seconds()))
      .value(
          "plant-fault",
          "OP",
          "for trying hang reports: this op (an id of `inspect --ops`) never ends on data rank 0")
      .value("out", "FOLDER", "output folder (default: out/<plan>)")
      .flag("force", "overwrite what a finished run left in the output folder")
      .output(
          "record-routing",
          "write which experts the tokens of the last step chose (HDF5); `simulate` takes it as\n"
          "expert_load of kind recorded");
  if (!options.parse(args)) return 0;
  Plan plan = load_plan(options.plan_path());
  require_run(plan);
  if (options.has("steps")) plan.training.steps = options.integer("steps", {.min = 1});
  const int64_t validate_every = options.integer("validate-every", {.min = 0});
  if (!options.has("data") && !plan.data.text) {
    throw InputError(fmt::format(
        "{}: no text to train on: give --data FILE, or the plan a key data.text", plan.path));
  }
  const std::string text = options.has("data") ? options.text("data") : *plan.data.text;
  const std::string out = options.has("out") ? options.text("out") : default_out(plan);

  const Duration hang_timeout = Duration::seconds(options.number("hang-timeout", 0, 1e6));
  if (options.has("record-routing")) {
    if (plan.model.architecture.experts == 0) {
      throw InputError(plan.path + ": --record-routing: the model has no experts");
    }
  }
  const std::string log_path = out + "/log.jsonl";
  const std::string timeline_path = out + "/timeline.json";
  const std::string result_path = out + "/result.json";
  std::vector<std::string> read = plan.files;
  read.push_back(text);
  options.check_outputs({log_path, timeline_path, result_path}, read);
  if (std::filesystem::exists(result_path) && !options.has("force")) {
    throw InputError(fmt::format(
        "{}: is there already: a finished run; --out names another folder, --force overwrites it",
        result_path));
  }
  Trainer trainer(plan, text, hang_timeout);
  trainer.record_choices(options.has("record-routing"));
  if (options.has("plant-fault")) {
    const auto ops = static_cast<int64_t>(trainer.program().ops().size());
    const auto op =
        static_cast<int32_t>(options.integer("plant-fault", {.min = 0, .max = ops - 1}));
    trainer.device().plant_fault(op);
  }
  Progress progress({.label = "train", .total = plan.training.steps, .quiet = options.quiet()});
  if (std::filesystem::exists(result_path))
    std::filesystem::remove(std::filesystem::canonical(result_path));
  LogFile log(log_path);
  Failures failures;
  catch_interrupts();
  const TrainResult result =
      trainer.train({.steps = plan.training.steps,
                     .validate_every = validate_every,
                     .on_step =
                         [&](const StepLog& step) {
                           if (log.why().empty() && !log.append(print_step(step))) {
                             failures.add(log.why() + "; the training goes on without it");
                           }
                           progress.update(step.step + 1, fmt::format("loss {:.3f}", step.loss));
                         },
                     .stop = [] { return interrupted().has_value(); }});
  Report report = training_report(plan, trainer.program(), result);
  Timeline timeline = result.timeline;
  timeline.shapes = shapes_of(plan);
  const std::optional<int> signal = interrupted();
  if (signal) {
    report.say(fmt::format(
        "\nstopped by a signal after {} of {} steps\n", result.steps, plan.training.steps));
  }
  report.put("stopped_by_signal", signal ? Value(*signal) : Value());
  if (options.has("record-routing")) {
    failures.attempt([&] { record_routing(plan, trainer, options.text("record-routing")); });
  }
  failures.attempt([&] { write_file(timeline_path, print_timeline(trainer.program(), timeline)); });
  failures.attempt([&] { write_file(result_path, print_json(report)); });
  if (!failures.any()) {
    report.say(fmt::format("\nwritten: {}/{{log.jsonl, timeline.json, result.json}}\n", out));
  }
  options.print(report);
  if (failures.any()) return 1;
  return signal ? kSignalled + *signal : 0;
}

}  // namespace rehearse::cli
