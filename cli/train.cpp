// rehearse train: runs the plan.

#include "runtime/train.h"

#include <array>
#include <iostream>
#include <map>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/reports.h"
#include "kernels/devices/devices.h"
#include "kernels/devices/find_library.h"
#include "plan/capabilities.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/checkpoints/safetensors.h"
#include "runtime/training_run.h"

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

// Logits and gradients of the first batch, for others to compare with.
void dump(const Options& options, const Plan& plan, Trainer& trainer) {
  const StepLog log = trainer.probe();
  const std::map<std::string, std::string> about = {{"format", "pt"},
                                                    {"loss", fmt::format("{:.17g}", log.loss)}};
  if (options.has("dump-logits")) {
    const Training& t = plan.training;
    const int64_t sequences = t.micro_batches * t.micro_batch_size * plan.layout.dp;
    const std::vector<int64_t> shape{sequences, t.sequence_length};
    NamedTensor inputs{.name = "input_ids", .shape = shape};
    NamedTensor labels{.name = "labels", .shape = shape};
    NamedTensor logits{.name = "logits",
                       .shape = {sequences, t.sequence_length, plan.model.architecture.vocabulary}};
    const Batch batch = trainer.data().training(0, 0, sequences);
    inputs.whole.assign(batch.inputs.begin(), batch.inputs.end());
    labels.whole.assign(batch.targets.begin(), batch.targets.end());
    for (int32_t d = 0; d < plan.layout.dp; ++d) {
      for (int64_t m = 0; m < t.micro_batches; ++m) {
        const auto of = trainer.ranks().recorded_logits(d, m);
        logits.values.insert(logits.values.end(), of.begin(), of.end());
      }
    }
    const std::array<const NamedTensor*, 3> all{&inputs, &labels, &logits};
    write_safetensors(options.text("dump-logits"), all, about);
  }
  if (options.has("dump-gradients")) {
    const std::vector<NamedTensor> gradients = trainer.ranks().state(StateKind::kGradients);
    std::vector<const NamedTensor*> all;
    for (const NamedTensor& t : gradients) all.push_back(&t);
    write_safetensors(options.text("dump-gradients"), all, about);
  }
  Report r;
  r.line("loss", "loss", {fmt::format("{:.6f} nats per token", log.loss), log.loss});
  r.line("gradient_norm", "gradient norm", log.gradient_norm);
  options.print(r);
}

Options::Description description() {
  return {
      .name = "train",
      .about =
          "Trains the plan's model on plain text (one token per byte), as the plan lays it\n"
          "out, with every op timed. Writes into the output folder:\n"
          "  log.jsonl      a JSON object per step: loss, gradient norm, learning rate, time,\n"
          "                 tokens/s, expert load per layer, memory\n"
          "  timeline.json  the measured timeline of a step of median time (ui.perfetto.dev)\n"
          "  result.json    what --json prints\n"
          "  checkpoints/   with --checkpoint-every: step-<N>/ with weights and AdamW's moments "
          "as\n"
          "                 safetensors under Hugging Face's names, and manifest.json\n"
          "log.jsonl grows as steps end, the others come at the end. Ctrl-C (SIGINT) or SIGTERM\n"
          "let the step end, save, write what there is, and exit with 130 or 143; what comes "
          "within\n"
          "a second is the same signal, a later one ends the run at once. --resume goes "
          "on\n"
          "from the newest whole checkpoint, in this layout bit for bit as if nothing had "
          "happened,\n"
          "or in any other. training.steps (--steps) is the whole training's length, by which "
          "the\n"
          "learning rate falls; --until ends a run of it early.",
      .examples =
          "  rehearse train plan.yaml --data book.txt\n"
          "  rehearse train plan.yaml --data book.txt --steps 20 --json\n"
          "  rehearse train plan.yaml --data book.txt --checkpoint-every 50 --resume\n"
          "  rehearse train plan.yaml --data book.txt --from model.safetensors --steps 0 \\\n"
          "      --dump-logits logits.safetensors --dump-gradients gradients.safetensors\n"};
}

void add_options(Options& options) {
  options.value("data", "FILE", "text file, instead of the plan's data.text")
      .value(
          "steps",
          "N",
          "the training's steps, instead of the plan's training.steps; 0: only what --dump-* ask")
      .value("until", "N", "end after so many steps of them, to be resumed")
      .value("checkpoint-every",
             "N",
             "save after every so many steps, and after the last (0: on a signal alone)",
             "0")
      .value("keep", "K", "checkpoints that stay, the newest", "3")
      .flag(
          "change",
          "with --resume: go on although the recipe is another (learning rate, precision, losses; "
          "all\nthat differs is listed); another model or other data stay refused, another layout "
          "needs no flag")
      .flag("no-save-on-signal", "a signal ends the run without a checkpoint")
      .flag("no-lock",
            "do not keep other processes out of the output folder: for file systems whose locks do "
            "not\nhold, where no other process uses it")
      .flag("resume",
            "go on from the newest whole checkpoint in the output folder; from the beginning where "
            "there is no run yet")
      .value(
          "from",
          "WEIGHTS",
          "start from these: a checkpoint, a folder of Hugging Face's safetensors files, or one\n"
          "such file")
      .output(
          "dump-logits",
          "with --steps 0: write logits [sequences, tokens, vocabulary] of the first batch, its\n"
          "input_ids and labels, as safetensors")
      .output(
          "dump-gradients",
          "with --steps 0: write that batch's gradients, of the mean loss over its tokens and the\n"
          "balance loss, unclipped, under the weights' names, as safetensors")
      .value(
          "validate-every", "N", "validate after every so many steps (0: after the last one)", "0")
      .value("validation-tokens",
             "N",
             "held-out tokens that a validation takes, at least, in whole batches (default: four "
             "batches)")
      .value("stop-on-spike",
             "NATS",
             "end with exit code 1 when a loss is so far above the mean of the 20 before it; the "
             "last\n"
             "checkpoint stays (0: never)",
             "0")
      .value("hang-timeout",
             "SECONDS",
             "time without any op ending after which the run is given up with a report",
             fmt::format("{:g}", kDefaultHangTimeout.seconds()))
      .value(
          "plant-fault",
          "OP",
          "for trying hang reports: this op (an id of `inspect --ops`) never ends on data rank 0")
      .value("device",
             "cpu|cuda",
             "what trains (default: a plan for GPUs on this machine's first card, others on cores)")
      .value("library-path",
             "FOLDER",
             "where cuBLASLt is looked for first, then in the loader's folders, the CUDA toolkit's "
             "and\nPython's packages; without it our own plain product takes its place")
      .value("out", "FOLDER", "output folder (default: out/<plan>)")
      .flag("force", "overwrite what a finished run left in the output folder")
      .value(
          "tensorboard", "FOLDER", "write the log's numbers there as TensorBoard's event files too")
      .output(
          "record-routing",
          "write which experts the tokens of every step chose, and with what weights (HDF5, whole "
          "at\nany moment; of a resumed run the steps from there on): for `replay`, and for "
          "`simulate`\nas expert_load of kind recorded");
}

// Who holds the folder, for others who want it.
std::string command_line(const Arguments& args) {
  std::string text = "rehearse train";
  for (const std::string& a : args) text += " " + a;
  return text;
}

void put_run(Report& report, const Plan& plan, const TrainingRunResult& run) {
  Report& r = report.section("run");
  r.put("from_step", run.first_step);
  if (!run.resumed_from.empty()) {
    r.put("resumed_from", run.resumed_from);
    r.say(fmt::format("\ngone on from {}, after {} steps\n", run.resumed_from, run.first_step));
  }
  Report::Table changed{.columns = {{"key", "since then"}, {"there", "there"}, {"here", "here"}}};
  for (const Difference& d : run.changed) changed.row({d.key, d.there, d.here});
  r.table("changed", std::move(changed));
  if (run.signal) {
    report.say(fmt::format("\nstopped by a signal after {} of {} steps{}\n",
                           run.trained->steps,
                           plan.training.steps,
                           run.saved.empty() ? "; not saved" : ""));
  }
  if (!run.saved.empty())
    report.say(fmt::format("saved: {}; --resume goes on from it\n", run.saved));
  report.put("saved", run.saved.empty() ? Value() : Value(run.saved));
  report.put("stopped_by_signal", run.signal ? Value(*run.signal) : Value());
}

TrainOn device_of(const Options& options, const Plan& plan) {
  if (options.has("library-path")) set_library_path(options.text("library-path"));
  TrainOn on = trained_on(plan);
  if (options.has("device")) {
    const auto named = kTrainOn.find(options.text("device"));
    if (!named) throw UsageError("train: --device is one of " + kTrainOn.list());
    on = *named;
  }
  if (on == TrainOn::kCores) {
    options.refuse({"library-path"}, "is for a card's libraries, and this trains on cores");
  }
  return on;
}

// Before anything is made. Throws InputError where the card that is asked for is not there.
void require_card(const Options& options, const Plan& plan, TrainOn on) {
  if (on == TrainOn::kCores) return;
  const std::string why = why_no_gpu();
  if (why.empty()) return;
  throw InputError(fmt::format(
      "{}: {} and there is none here to train on: {}; --device cpu trains the plan on cores",
      plan.path,
      options.has("device") ? "--device cuda asks for a card,"
                            : fmt::format("its cluster '{}' is of GPUs,", plan.cluster.name),
      why));
}

// The plan with what the command line says instead, checked.
Plan plan_of(const Options& options, bool only_dumps) {
  Plan plan = load_plan(options.plan_path());
  require_train(plan, device_of(options, plan));
  if (options.has("steps") && !only_dumps) {
    plan.training.steps = options.integer("steps", {.min = 1});
  }
  if (!options.has("data") && !plan.data.text) {
    throw InputError(fmt::format(
        "{}: no text to train on: give --data FILE, or the plan a key data.text", plan.path));
  }
  return plan;
}

TrainingRunOptions request_of(const Options& options, const Plan& plan, const Arguments& args) {
  TrainingRunOptions run;
  run.device = device_of(options, plan);
  run.text = options.has("data") ? options.text("data") : *plan.data.text;
  run.out = options.has("out") ? options.text("out") : default_out(plan);
  run.who = command_line(args);
  run.until = options.has("until")
                  ? options.integer("until", {.min = 1, .max = plan.training.steps})
                  : plan.training.steps;
  run.validate_every = options.integer("validate-every", {.min = 0});
  if (options.has("validation-tokens")) {
    run.validation_tokens = options.integer("validation-tokens", {.min = 1});
  }
  run.checkpoint_every = options.integer("checkpoint-every", {.min = 0});
  run.keep = options.integer("keep", {.min = 1, .max = 1'000'000});
  run.save_on_signal = !options.has("no-save-on-signal");
  run.resume = options.has("resume");
  run.change = options.has("change");
  run.force = options.has("force");
  run.lock = !options.has("no-lock");
  run.spike = options.text("stop-on-spike") == "0" ? 0 : options.number("stop-on-spike", 0, 1e6);
  run.hang_timeout = Duration::seconds(options.number("hang-timeout", 0, 1e6));
  if (options.has("from")) run.from = options.text("from");
  if (options.has("tensorboard")) run.tensorboard = options.text("tensorboard");
  if (options.has("record-routing")) run.record_routing = options.text("record-routing");
  if (run.resume && run.from) {
    throw UsageError("train: --resume and --from: a run has its own weights");
  }
  if (run.change && !run.resume) throw UsageError("train: --change says how --resume goes on");
  if (options.has("plant-fault")) {
    const auto ops = static_cast<int64_t>(build_program(plan).ops().size());
    run.plant_fault =
        static_cast<int32_t>(options.integer("plant-fault", {.min = 0, .max = ops - 1}));
  }
  return run;
}

// Only what --dump-* ask.
int dump_only(const Options& options, const Plan& plan, const TrainingRunOptions& request) {
  options.refuse({"resume", "tensorboard", "record-routing", "until", "plant-fault"},
                 "is for steps, and --steps 0 has none");
  options.check_outputs();
  Trainer trainer(plan, request.text, parts_of(request));
  if (request.from) load_weights(*request.from, trainer.ranks());
  dump(options, plan, trainer);
  return 0;
}

}  // namespace

int train(const Arguments& args) {
  Options options(description());
  add_options(options);
  if (!options.parse(args)) return 0;
  const bool dumps = options.has("dump-logits") || options.has("dump-gradients");
  const bool only_dumps = options.has("steps") && options.integer("steps", {.min = 0}) == 0;
  if (only_dumps && !dumps) {
    throw UsageError("train: --steps 0 is for --dump-logits and --dump-gradients");
  }
  if (dumps && !only_dumps) {
    throw UsageError("train: --dump-logits and --dump-gradients need --steps 0");
  }
  const Plan plan = plan_of(options, only_dumps);
  TrainingRunOptions request = request_of(options, plan, args);
  require_card(options, plan, request.device);
  if (only_dumps) return dump_only(options, plan, request);
  const RunFiles files(request.out);
  options.check_outputs({files.log, files.timeline, files.result});

  Failures failures;
  Progress progress({.label = "train", .total = request.until, .quiet = options.quiet()});
  request.note = [&](const std::string& what) { std::cerr << "note: " << what << "\n"; };
  request.trouble = [&](const std::string& what) { failures.add(what); };
  request.on_step = [&](const StepLog& step) {
    progress.update(step.step + 1,
                    fmt::format("loss {:.3f}, {:.0f} tokens/s", step.loss, step.tokens_per_s));
  };
  TrainingRun run(plan, std::move(request));
  const TrainingRunResult result = run.train();
  if (!result.trained) {
    Report report;
    report.put("steps", result.first_step);
    report.put("nothing_left", true);
    options.print(report);
    return 0;
  }
  const Program& program = run.trainer().program();
  Report report = training_report(plan, program, *result.trained);
  put_run(report, plan, result);
  Timeline timeline = result.trained->timeline;
  timeline.shapes = shapes_of(plan);
  failures.attempt([&] { write_file(files.timeline, print_timeline(program, timeline)); });
  failures.attempt([&] { write_file(files.result, print_json(report)); });
  if (!failures.any()) {
    report.say(fmt::format("\nwritten: {}, {}, {}\n", files.log, files.timeline, files.result));
  }
  options.print(report);
  if (failures.any()) return 1;
  return result.signal ? kSignalled + *result.signal : 0;
}

}  // namespace rehearse::cli
