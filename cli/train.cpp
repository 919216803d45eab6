// rehearse train: runs the plan.

#include "runtime/train.h"

#include <array>
#include <charconv>
#include <filesystem>
#include <iostream>
#include <map>

#include <fmt/format.h>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/reports.h"
#include "cli/tensorboard.h"
#include "plan/capabilities.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/checkpoints/safetensors.h"
#include "runtime/record_routing.h"
#include "search/space.h"

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

// What a run left in the folder before, or is leaving.
void require_no_run(const std::string& out, const std::string& checkpoints, bool resume) {
  for (const auto& [path, what] : {std::pair(out + "/result.json", "a finished run"),
                                   std::pair(out + "/log.jsonl", "a run that did not end")}) {
    if (!std::filesystem::exists(path)) continue;
    // One that was killed before its first checkpoint begins again.
    if (resume && path.ends_with("log.jsonl")) continue;
    throw InputError(
        fmt::format("{}: is there already: {}; {}--out names another folder, --force "
                    "overwrites it",
                    path,
                    what,
                    has_checkpoints(checkpoints) ? "--resume goes on with it, " : ""));
  }
  if (has_checkpoints(checkpoints)) {
    throw InputError(
        fmt::format("{}: holds checkpoints of a run; --resume goes on with it, --out "
                    "names another folder, --force removes them",
                    checkpoints));
  }
}

// But for the step and its loss.
CheckpointInfo info_of(const Plan& plan, const Trainer& trainer) {
  return {
      .seed = plan.training.seed,
      .sequences = plan.training.micro_batches * plan.training.micro_batch_size * plan.layout.dp,
      .sequence_length = plan.training.sequence_length,
      .text_bytes = trainer.data().bytes(),
      .text_checksum = trainer.data().checksum(),
      .ema = plan.training.ema,
      .model = plan.model.name,
      .layout_text = to_string(candidate_of(plan))};
}

// A checkpoint's training must be the plan's: the same text in the same order.
void require_same_training(const Checkpoint& c, const CheckpointInfo& own) {
  const auto same = [&](const char* what, auto there, auto here) {
    if (there == here) return;
    throw InputError(
        fmt::format("{}: is of another training: {} {} there, {} here; --from takes its weights "
                    "alone",
                    c.folder,
                    what,
                    there,
                    here));
  };
  same("seed", c.info.seed, own.seed);
  same("ema", c.info.ema, own.ema);
  same("sequences per step", c.info.sequences, own.sequences);
  same("sequence length", c.info.sequence_length, own.sequence_length);
  same("bytes of text", c.info.text_bytes, own.text_bytes);
  same("text's CRC-32", c.info.text_checksum, own.text_checksum);
}

// The newest whole checkpoint, loaded.
Checkpoint resume(const std::string& folder, const CheckpointInfo& own, Trainer& trainer) {
  std::vector<std::string> passed_over;
  const std::optional<Checkpoint> found = newest_checkpoint(folder, passed_over);
  for (const std::string& why : passed_over) {
    std::cerr << fmt::format("note: a checkpoint is passed over: {}\n", why);
  }
  if (!found) {
    throw InputError(fmt::format("{}: no whole checkpoint to resume from", folder));
  }
  require_same_training(*found, own);
  load_state(*found, trainer.device());
  return *found;
}

// The log's lines of steps before `step`: those behind were run and lost, and are run again.
void cut_log(const std::string& path, int64_t step) {
  if (!std::filesystem::exists(path)) return;
  const std::string text = read_file(path);
  std::string kept;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    const std::string line = text.substr(at, end + 1 - at);
    at = end + 1;
    constexpr std::string_view kBegin = "{\"step\":";
    int64_t of = 0;
    if (!line.starts_with(kBegin)) break;
    const char* const digits = line.data() + kBegin.size();
    if (std::from_chars(digits, line.data() + line.size(), of).ec != std::errc()) break;
    if (of < step) kept += line;
  }
  write_file(path, kept);
}

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
        const auto of = trainer.device().recorded_logits(d, m);
        logits.values.insert(logits.values.end(), of.begin(), of.end());
      }
    }
    const std::array<const NamedTensor*, 3> all{&inputs, &labels, &logits};
    write_safetensors(options.text("dump-logits"), all, about);
  }
  if (options.has("dump-gradients")) {
    const std::vector<NamedTensor> gradients = trainer.device().state(StateKind::kGradients);
    std::vector<const NamedTensor*> all;
    for (const NamedTensor& t : gradients) all.push_back(&t);
    write_safetensors(options.text("dump-gradients"), all, about);
  }
  Report r;
  r.line("loss", "loss", {fmt::format("{:.6f} nats per token", log.loss), log.loss});
  r.line("gradient_norm", "gradient norm", log.gradient_norm);
  options.print(r);
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
           "  checkpoints/   with --checkpoint-every: step-<N>/ with weights and AdamW's moments "
           "as\n"
           "                 safetensors under Hugging Face's names, and manifest.json\n"
           "log.jsonl grows as steps end, the others come at the end. Ctrl-C (SIGINT) or SIGTERM\n"
           "let the step end, save, write what there is, and exit with 130 or 143. --resume goes "
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
           "      --dump-logits logits.safetensors --dump-gradients gradients.safetensors\n"});
  options.value("data", "FILE", "text file, instead of the plan's data.text")
      .value(
          "steps",
          "N",
          "the training's steps, instead of the plan's training.steps; 0: only what --dump-* ask")
      .value("until", "N", "end after so many steps of them, to be resumed")
      .value("checkpoint-every",
             "N",
             "save after every so many steps, after the last, and on a signal (0: never)",
             "0")
      .value("keep", "K", "checkpoints that stay, the newest", "3")
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
      .value("out", "FOLDER", "output folder (default: out/<plan>)")
      .flag("force", "overwrite what a finished run left in the output folder")
      .value(
          "tensorboard", "FOLDER", "write the log's numbers there as TensorBoard's event files too")
      .output(
          "record-routing",
          "write which experts the tokens of every step chose, and with what weights (HDF5, whole "
          "at\nany moment; of a resumed run the steps from there on): for `replay`, and for "
          "`simulate`\nas expert_load of kind recorded");
  if (!options.parse(args)) return 0;
  Plan plan = load_plan(options.plan_path());
  require_run(plan);
  const bool dumps = options.has("dump-logits") || options.has("dump-gradients");
  const bool only_dumps = options.has("steps") && options.integer("steps", {.min = 0}) == 0;
  if (only_dumps && !dumps) {
    throw UsageError("train: --steps 0 is for --dump-logits and --dump-gradients");
  }
  if (dumps && !only_dumps) {
    throw UsageError("train: --dump-logits and --dump-gradients need --steps 0");
  }
  if (options.has("steps") && !only_dumps)
    plan.training.steps = options.integer("steps", {.min = 1});
  const int64_t every = options.integer("checkpoint-every", {.min = 0});
  const int64_t keep = options.integer("keep", {.min = 1, .max = 1'000'000});
  const double spike =
      options.text("stop-on-spike") == "0" ? 0 : options.number("stop-on-spike", 0, 1e6);
  const int64_t until = options.has("until")
                            ? options.integer("until", {.min = 1, .max = plan.training.steps})
                            : plan.training.steps;
  if (options.has("resume") && options.has("from")) {
    throw UsageError("train: --resume and --from: a run has its own weights");
  }
  const int64_t validate_every = options.integer("validate-every", {.min = 0});
  if (!options.has("data") && !plan.data.text) {
    throw InputError(fmt::format(
        "{}: no text to train on: give --data FILE, or the plan a key data.text", plan.path));
  }
  const std::string text = options.has("data") ? options.text("data") : *plan.data.text;
  const std::string out = options.has("out") ? options.text("out") : default_out(plan);

  const Duration hang_timeout = Duration::seconds(options.number("hang-timeout", 0, 1e6));
  const std::string log_path = out + "/log.jsonl";
  const std::string timeline_path = out + "/timeline.json";
  const std::string result_path = out + "/result.json";
  std::vector<std::string> read = plan.files;
  read.push_back(text);
  if (options.has("from")) read.push_back(options.text("from"));
  options.check_outputs({log_path, timeline_path, result_path}, read);
  const std::string checkpoints = out + "/checkpoints";
  const bool resumes = options.has("resume") && has_checkpoints(checkpoints);
  if (!resumes && !only_dumps && !options.has("force")) {
    require_no_run(out, checkpoints, options.has("resume"));
  }
  Trainer trainer(plan, text, hang_timeout);
  if (options.has("from")) load_weights(options.text("from"), trainer.device());
  if (only_dumps) {
    dump(options, plan, trainer);
    return 0;
  }
  CheckpointInfo info = info_of(plan, trainer);
  int64_t first_step = 0;
  if (resumes) {
    const Checkpoint from = resume(checkpoints, info, trainer);
    first_step = from.info.step;
    if (first_step >= until) {
      std::cerr << fmt::format("note: {}: {} of {} steps are done; nothing is left to do\n",
                               from.folder,
                               first_step,
                               until);
      return 0;
    }
    if (!options.quiet()) {
      std::cerr << fmt::format("resumed after step {} from {}\n", first_step, from.folder);
    }
    cut_log(log_path, first_step);
  } else if (options.has("force")) {
    std::filesystem::remove_all(checkpoints);
  }
  std::optional<RoutingRecorder> recorder;
  if (options.has("record-routing")) {
    recorder.emplace(options.text("record-routing"),
                     plan,
                     trainer,
                     std::map<std::string, std::string>{
                         {"text_crc32", fmt::format("{:08x}", trainer.data().checksum())},
                         {"text_bytes", std::to_string(trainer.data().bytes())}});
  }
  if (options.has("plant-fault")) {
    const auto ops = static_cast<int64_t>(trainer.program().ops().size());
    const auto op =
        static_cast<int32_t>(options.integer("plant-fault", {.min = 0, .max = ops - 1}));
    trainer.device().plant_fault(op);
  }
  Progress progress({.label = "train", .total = until, .quiet = options.quiet()});
  if (std::filesystem::exists(result_path))
    std::filesystem::remove(std::filesystem::canonical(result_path));
  LogFile log(log_path, resumes ? LogFile::Mode::kGoOn : LogFile::Mode::kAnew);
  std::optional<TensorboardFile> tensorboard;
  if (options.has("tensorboard")) tensorboard.emplace(options.text("tensorboard"), first_step);
  Failures failures;
  std::optional<CheckpointSaver> saver;
  if (every > 0) saver.emplace(checkpoints, keep);
  const auto save = [&](int64_t steps, double loss) {
    if (const std::string error = saver->error(); !error.empty()) {
      failures.add(error + "; the training goes on without that checkpoint");
    }
    info.step = steps;
    info.loss = loss;
    saver->save(trainer.device(), info);
  };
  catch_interrupts();
  const TrainResult result = trainer.train(
      {.steps = until,
       .first_step = first_step,
       .validate_every = validate_every,
       .spike = spike,
       .on_step =
           [&](const StepLog& step) {
             if (log.why().empty() && !log.append(print_step(step))) {
               failures.add(log.why() + "; the training goes on without it");
             }
             if (tensorboard && tensorboard->why().empty() && !tensorboard->append(step)) {
               failures.add(tensorboard->why() + "; the training goes on without it");
             }
             if (recorder) recorder->record(step.step);
             progress.update(
                 step.step + 1,
                 fmt::format("loss {:.3f}, {:.0f} tokens/s", step.loss, step.tokens_per_s));
             if (saver && (step.step + 1) % every == 0) save(step.step + 1, step.loss);
           },
       .stop = [] { return interrupted().has_value(); }});
  if (saver) {
    if (saver->last_step() != result.steps) save(result.steps, result.last_loss);
    if (const std::string error = saver->error(); !error.empty()) failures.add(error);
  }
  Report report = training_report(plan, trainer.program(), result);
  Timeline timeline = result.timeline;
  timeline.shapes = shapes_of(plan);
  const std::optional<int> signal = interrupted();
  if (signal) {
    report.say(fmt::format(
        "\nstopped by a signal after {} of {} steps\n", result.steps, plan.training.steps));
  }
  report.put("stopped_by_signal", signal ? Value(*signal) : Value());
  if (recorder) {
    if (const std::string error = recorder->finish(); !error.empty()) failures.add(error);
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
