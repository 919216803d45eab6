#include "runtime/training_run.h"

#include <charconv>
#include <filesystem>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/call_files.h"
#include "base/file.h"
#include "base/integers.h"
#include "base/interrupt.h"
#include "runtime/record_routing.h"
#include "runtime/tensorboard.h"

namespace rehearse {

namespace {

namespace fs = std::filesystem;

// What a run left in the folder before, or is leaving.
void require_no_run(const RunFiles& files, bool resume) {
  const bool saved = has_checkpoints(files.checkpoints);
  for (const auto& [path, what] : {std::pair(files.result, "a finished run"),
                                   std::pair(files.log, "a run that did not end")}) {
    if (!fs::exists(path)) continue;
    // One that was killed before its first checkpoint begins again.
    if (resume && path == files.log) continue;
    throw InputError(
        fmt::format("{}: is there already: {}; {}--out names another folder, --force overwrites it",
                    path,
                    what,
                    saved ? "--resume goes on with it, " : ""));
  }
  if (saved) {
    throw InputError(
        fmt::format("{}: holds checkpoints of a run; --resume goes on with it, --out "
                    "names another folder, --force removes them",
                    files.checkpoints));
  }
}

// The log's lines of steps up to `step`: those behind were run and lost, and are run again.
void cut_log(const std::string& path, int64_t step) {
  if (!fs::exists(path)) return;
  const std::string text = read_own_file(path);
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
    if (of <= step) kept += line;
  }
  write_file(path, kept);
}

std::vector<Difference> of_kind(const std::vector<Difference>& all, OnResume kind) {
  std::vector<Difference> some;
  for (const Difference& d : all) {
    if (d.on_change == kind) some.push_back(d);
  }
  return some;
}

// Throws InputError where a checkpoint may not go on as what is asked for.
void require_may_go_on(const Checkpoint& c,
                       const std::vector<Difference>& all,
                       const Plan& plan,
                       bool change) {
  std::vector<Difference> refused = of_kind(all, OnResume::kModel);
  const std::vector<Difference> data = of_kind(all, OnResume::kData);
  refused.insert(refused.end(), data.begin(), data.end());
  if (!refused.empty()) {
    throw InputError(fmt::format("{}: is of another training: {}; --from takes its weights alone",
                                 c.folder,
                                 to_string(refused)));
  }
  if (plan.training.ema > 0 && !c.info.averages) {
    throw InputError(fmt::format(
        "{}: holds no moving average of the weights, which training.ema {} goes on with; --from "
        "takes its weights alone",
        c.folder,
        plan.training.ema));
  }
  const std::vector<Difference> recipe = of_kind(all, OnResume::kRecipe);
  if (!recipe.empty() && !change) {
    throw InputError(
        fmt::format("{}: was saved under another recipe: {}; --change goes on with what "
                    "is said here",
                    c.folder,
                    to_string(recipe)));
  }
}

}  // namespace

RunFiles::RunFiles(const std::string& folder)
    : log(folder + "/log.jsonl"),
      timeline(folder + "/timeline.json"),
      result(folder + "/result.json"),
      checkpoints(folder + "/checkpoints") {}

// What grows while steps run.
struct TrainingRun::Outputs {
  LogFile log;
  std::optional<TensorboardFile> tensorboard;
  std::optional<RoutingRecorder> recorder;
  std::optional<CheckpointSaver> saver;
};

TrainerParts parts_of(const TrainingRunOptions& options) {
  return {.device = [on = options.device](
                        const Plan& plan,
                        Communicator& communicator) { return make_device(plan, communicator, on); },
          .hang_timeout = options.hang_timeout};
}

TrainingRun::TrainingRun(const Plan& plan, TrainingRunOptions options)
    : plan_(plan), options_(std::move(options)), files_(options_.out) {
  if (options_.lock) lock_.emplace(options_.out, options_.who);
  const bool resumes = options_.resume && has_checkpoints(files_.checkpoints);
  if (resumes) {
    claim_own_folder(files_.checkpoints);
  } else {
    if (!options_.force) require_no_run(files_, options_.resume);
    claim_output_folder(files_.checkpoints);
  }
  trainer_ = std::make_unique<Trainer>(plan_, options_.text, parts_of(options_));
  if (options_.from) load_weights(*options_.from, trainer_->ranks());
  info_ = {
      .averages = plan_.training.ema > 0,
      .model = plan_.model.name,
      .layout_text = ranks_text(plan_.layout) + " " + std::string(name_of(plan_.layout.schedule)),
      .facts = facts_of(plan_, trainer_->data().bytes(), trainer_->data().checksum())};
  if (resumes) {
    go_on();
  } else if (options_.force) {
    fs::remove_all(files_.checkpoints);
  }
}

TrainingRun::~TrainingRun() = default;

Trainer& TrainingRun::trainer() {
  return *trainer_;
}

// The newest whole checkpoint, loaded.
void TrainingRun::go_on() {
  std::vector<std::string> passed_over;
  const std::optional<Checkpoint> found = newest_checkpoint(files_.checkpoints, passed_over);
  for (const std::string& why : passed_over) {
    options_.note(fmt::format("a checkpoint is passed over: {}", why));
  }
  if (!found) {
    throw InputError(fmt::format("{}: no whole checkpoint to resume from", files_.checkpoints));
  }
  const std::vector<Difference> all = differences(found->info.facts, info_.facts);
  require_may_go_on(*found, all, plan_, options_.change);
  result_.changed = of_kind(all, OnResume::kRecipe);
  if (!result_.changed.empty()) {
    options_.note("goes on under another recipe: " + to_string(result_.changed));
  }
  if (const std::vector<Difference> laid = of_kind(all, OnResume::kLayout); !laid.empty()) {
    options_.note("goes on in another layout: " + to_string(laid));
    result_.changed.insert(result_.changed.end(), laid.begin(), laid.end());
  }
  load_state(*found, trainer_->ranks(), plan_.training.ema > 0);
  result_.resumed_from = found->folder;
  result_.first_step = found->info.step;
}

// What the first line of a run in the log holds beside its step: where it begins, as what.
std::string TrainingRun::begin_of_log() const {
  nlohmann::ordered_json run = {{"from_step", result_.first_step}, {"layout", info_.layout_text}};
  if (!result_.resumed_from.empty()) run["resumed_from"] = result_.resumed_from;
  for (const Difference& d : result_.changed) run["changed"][d.key] = {d.there, d.here};
  if (result_.resumed_from.empty()) {
    for (const Fact& f : info_.facts) run["is"][kOnResume[f.on_change]][f.key] = f.value;
  }
  return run.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void TrainingRun::save(int64_t steps, double loss) {
  if (!outputs_->saver) outputs_->saver.emplace(files_.checkpoints, options_.keep);
  CheckpointSaver& saver = *outputs_->saver;
  if (const std::string error = saver.error(); !error.empty()) {
    options_.trouble(error + "; the training goes on without that checkpoint");
  }
  info_.step = steps;
  info_.loss = loss;
  saver.save(trainer_->ranks(), info_);
}

// Batches of a validation.
int64_t TrainingRun::validation_steps() const {
  if (!options_.validation_tokens) return TrainOptions{}.validation_steps;
  const Training& t = plan_.training;
  const int64_t batch = t.micro_batches * t.micro_batch_size * t.sequence_length * plan_.layout.dp;
  const int64_t steps = ceil_div(*options_.validation_tokens, batch);
  const int64_t there = trainer_->data().validation_sequences() * t.sequence_length / batch;
  if (steps > there) {
    throw InputError(fmt::format(
        "--validation-tokens {}: {} held-out batches of {} tokens, and the text has {}; a larger "
        "data.validation_fraction holds out more",
        *options_.validation_tokens,
        steps,
        batch,
        there));
  }
  return steps;
}

void TrainingRun::say_what_is_at_stake(int64_t steps) const {
  const auto saved = outputs_->saver ? outputs_->saver->last_step() : std::nullopt;
  const int64_t safe = saved.value_or(result_.resumed_from.empty() ? 0 : result_.first_step);
  say_what_an_end_loses(
      safe == steps ? "" : fmt::format("steps {} to {} are in no checkpoint", safe + 1, steps + 1));
}

void TrainingRun::after_step(const StepLog& step) {
  Outputs& o = *outputs_;
  std::string line = print_step(step);
  if (step.step == result_.first_step) {
    line.pop_back();
    line += ",\"run\":" + begin_of_log() + "}";
  }
  if (o.log.why().empty() && !o.log.append(line)) {
    options_.trouble(o.log.why() + "; the training goes on without it");
  }
  if (o.tensorboard && o.tensorboard->why().empty() && !o.tensorboard->append(step)) {
    options_.trouble(o.tensorboard->why() + "; the training goes on without it");
  }
  const int64_t done = step.step + 1;
  if (o.recorder) o.recorder->record(done);
  options_.on_step(step);
  if (options_.checkpoint_every > 0 && done % options_.checkpoint_every == 0) save(done, step.loss);
  say_what_is_at_stake(done);
}

TrainingRunResult TrainingRun::train() {
  if (result_.first_step >= options_.until) {
    options_.note(fmt::format("{}: {} of {} steps are done; nothing is left to do",
                              result_.resumed_from,
                              result_.first_step,
                              options_.until));
    return result_;
  }
  const bool goes_on = !result_.resumed_from.empty();
  if (goes_on) cut_log(files_.log, result_.first_step);
  std::error_code error;
  if (fs::exists(files_.result)) fs::remove(fs::canonical(files_.result), error);
  const auto mode = goes_on ? LogFile::Mode::kGoOn : LogFile::Mode::kAnew;
  outputs_.reset(new Outputs{.log = LogFile(files_.log, mode)});
  Outputs& o = *outputs_;
  if (options_.tensorboard) o.tensorboard.emplace(*options_.tensorboard, result_.first_step);
  if (options_.record_routing) {
    o.recorder.emplace(*options_.record_routing,
                       plan_,
                       *trainer_,
                       std::map<std::string, std::string>{
                           {"text_crc32", fmt::format("{:08x}", trainer_->data().checksum())},
                           {"text_bytes", std::to_string(trainer_->data().bytes())}});
  }
  if (options_.checkpoint_every > 0) o.saver.emplace(files_.checkpoints, options_.keep);
  if (options_.plant_fault) trainer_->ranks().plant_fault(*options_.plant_fault);
  catch_interrupts();
  say_what_is_at_stake(result_.first_step);
  result_.trained = trainer_->train({.steps = options_.until,
                                     .first_step = result_.first_step,
                                     .validate_every = options_.validate_every,
                                     .validation_steps = validation_steps(),
                                     .spike = options_.spike,
                                     .on_step = [&](const StepLog& step) { after_step(step); },
                                     .stop = [] { return interrupted().has_value(); }});
  result_.signal = interrupted();
  const TrainResult& t = *result_.trained;
  const bool wanted = options_.checkpoint_every > 0 || (result_.signal && options_.save_on_signal);
  if (wanted && !(o.saver && o.saver->last_step() == t.steps)) save(t.steps, t.last_loss);
  if (o.saver) {
    if (const std::string why = o.saver->error(); !why.empty()) {
      options_.trouble(why);
    } else if (const auto last = o.saver->last_step()) {
      result_.saved = checkpoint_folder(files_.checkpoints, *last);
    }
  }
  if (o.recorder) {
    if (const std::string why = o.recorder->finish(); !why.empty()) options_.trouble(why);
  }
  return result_;
}

}  // namespace rehearse
