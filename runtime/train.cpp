#include "runtime/train.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include <fmt/format.h>

#include "cost/layer.h"
#include "plan/routing/load_shape.h"
#include "runtime/learning_rate.h"
#include "runtime/median_step.h"

namespace rehearse {

namespace {

std::vector<Place> places_of(const Program& program, std::span<const int64_t> ranks) {
  std::vector<Place> places;
  for (const int64_t rank : ranks) places.push_back(program.layout().place_of(rank));
  return places;
}

}  // namespace

Trainer::Trainer(const Plan& plan, const std::string& text_path, TrainerParts parts)
    : plan_(plan),
      program_(build_program(plan)),
      forward_program_(build_program(plan, Mode::kForward)),
      data_(text_path, plan),
      communicator_(parts.communicator != nullptr ? std::move(parts.communicator)
                                                  : make_communicator(plan)),
      device_(parts.device(plan, *communicator_)),
      ranks_(plan,
             parts.recipe.value_or(recipe_of(plan.training)),
             program_,
             data_,
             *communicator_,
             *device_),
      ramp_(plan.training, plan.layout),
      micro_batches_(plan.training.micro_batches),
      hang_timeout_(parts.hang_timeout),
      forward_workers_(forward_program_,
                       ranks_,
                       {.local = places_of(program_, communicator_->local_ranks()),
                        .no_progress = parts.hang_timeout}),
      results_(plan, plan.training.micro_batches) {
  rehearse::validate(forward_program_);
  make_workers();
}

void Trainer::make_workers() {
  rehearse::validate(program_);
  workers_.emplace(program_,
                   ranks_,
                   RunOptions{.local = places_of(program_, communicator_->local_ranks()),
                              .no_progress = hang_timeout_});
}

void Trainer::set_micro_batches(int64_t count) {
  if (count == micro_batches_) return;
  micro_batches_ = count;
  Plan plan = plan_;
  plan.training.micro_batches = count;
  workers_.reset();  // they hold the program
  program_ = build_program(plan);
  make_workers();
}

Timeline Trainer::run(Workers& workers, const StepSettings& settings) {
  ranks_.begin_step(settings);
  communicator_->sum_over_processes(std::span<int64_t>());
  return workers.run_step();
}

StepLog Trainer::step(int64_t step) {
  set_micro_batches(ramp_.micro_batches_at(step));
  return run_and_log({.step = step,
                      .micro_batches = micro_batches_,
                      .learning_rate = learning_rate_at(plan_.training, step)});
}

StepLog Trainer::probe() {
  set_micro_batches(plan_.training.micro_batches);
  return run_and_log({.micro_batches = micro_batches_, .probe = true});
}

StepLog Trainer::run_and_log(const StepSettings& settings) {
  const Architecture& a = plan_.model.architecture;
  const int64_t step = settings.step;
  StepLog log{.step = step, .learning_rate = settings.learning_rate};
  for (bool whole = false; !whole;) {
    timeline_ = run(*workers_, settings);
    sum_over_processes(timeline_, *communicator_);
    results_ = ranks_.results();
    sum_over_processes(results_, *communicator_);
    // Nothing followed from a step that had no room for all rows: it is repeated with more.
    whole = results_.overflowed == 0;
    if (!whole) ranks_.make_room();
  }
  log.time = timeline_.step();
  log.loss = results_.mean_loss();
  for (int64_t module = 1; module <= a.mtp_depth; ++module) {
    log.mtp_losses.push_back(results_.mean_mtp_loss(module));
  }
  log.gradient_norm = results_.gradient_norm;
  log.sequences = micro_batches_ * plan_.training.micro_batch_size * plan_.layout.dp;
  const auto tokens = static_cast<double>(log.sequences * plan_.training.sequence_length);
  log.tokens_per_s = tokens / log.time.seconds();
  const double flops =
      training_flops_per_token(a, plan_.training.sequence_length, true).count() * tokens;
  log.tflops_per_rank =
      flops / log.time.seconds() / static_cast<double>(plan_.layout.world()) * 1e-12;
  for (int64_t layer = a.dense_layers(); layer < a.layers + a.mtp_depth; ++layer) {
    if (!a.is_moe(layer)) continue;
    const auto tokens_of = results_.load_of(layer);
    const LoadShape spread = load_shape({tokens_of.begin(), tokens_of.end()});
    log.expert_load.push_back(spread.max);
    log.expert_load_p50.push_back(spread.p50);
    log.expert_load_p90.push_back(spread.p90);
    log.expert_load_p95.push_back(spread.p95);
    log.expert_load_p99.push_back(spread.p99);
    log.max_expert_load = std::max(log.max_expert_load, spread.max);
  }
  const Summary summary = summarize(program_, timeline_);
  log.bubble = summary.bubble_fraction;
  log.exposed_comm = summary.exposed_comm_fraction;
  log.overruns = results_.overruns;
  log.memory = results_.worst_memory();
  if (!std::isfinite(log.loss) || !std::isfinite(log.gradient_norm)) {
    const std::string first = results_.first_bad();
    throw InputError(fmt::format(
        "{}: the {} is not finite in step {}{}; the weights are those before it; a lower "
        "training.learning_rate or a higher warmup_steps may help",
        plan_.path,
        std::isfinite(log.loss) ? "gradient" : "loss",
        step + 1,
        first.empty() ? "" : ": first " + first));
  }
  return log;
}

double Trainer::validate(int64_t steps) {
  double total = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t sequences =
        plan_.training.micro_batches * plan_.training.micro_batch_size * plan_.layout.dp;
    run(forward_workers_,
        {.micro_batches = plan_.training.micro_batches,
         .validation = true,
         .first_window = i * sequences});
    StepResults results = ranks_.results();
    sum_over_processes(results, *communicator_);
    total += results.mean_loss();
  }
  const double loss = total / static_cast<double>(steps);
  if (!std::isfinite(loss)) throw InputError(plan_.path + ": the validation loss is not finite");
  return loss;
}

TrainResult Trainer::train(const TrainOptions& options) {
  const int64_t to_run = options.steps - options.first_step;
  CHECK(to_run >= 1) << to_run << " steps";
  TrainResult result{.first_step = options.first_step};
  MedianStep median;
  const LoadWatch watch;
  std::deque<double> losses;  // the last kSpikeSteps
  const bool has_validation = plan_.data.validation_fraction > 0 && options.validation_steps > 0;
  const int64_t warm = options.first_step + (to_run > kFewSteps ? kWarmSteps : 0);
  const int64_t tail = std::max<int64_t>(1, to_run / 10);
  int64_t in_tail = 0;
  for (int64_t i = options.first_step; i < options.steps; ++i) {
    const int64_t batch_before = micro_batches_;
    StepLog log = step(i);
    if (micro_batches_ != batch_before) median = {};
    refuse_spike(options, log, losses);
    const bool last = i + 1 == options.steps;
    const bool due = last || (options.validate_every > 0 && (i + 1) % options.validate_every == 0);
    if (has_validation && due) log.validation_loss = validate(options.validation_steps);
    if (options.on_step) tell(options, log);
    const bool stop = !last && asked_to_stop(options);
    if (i >= warm || stop || last) median.add(log.time, timeline_);
    if (i >= options.steps - tail || stop) {
      result.max_expert_load += log.max_expert_load;
      ++in_tail;
    }
    result.steps = i + 1;
    if (i == options.first_step) result.first_loss = log.loss;
    result.last_loss = log.loss;
    result.validation_loss = log.validation_loss;
    result.memory = log.memory;
    result.overruns += log.overruns;
    if (stop) break;
  }
  result.max_expert_load /= static_cast<double>(in_tail);
  result.median_step = median.median();
  result.timeline_step = median.nearest().step;
  result.timeline = median.nearest().timeline;
  // One process of several cannot tell its siblings from others.
  if (std::ssize(communicator_->local_ranks()) == plan_.layout.world()) {
    result.timeline.load = watch.so_far();
  }
  return result;
}

void Trainer::refuse_spike(const TrainOptions& options,
                           const StepLog& log,
                           std::deque<double>& losses) const {
  if (options.spike <= 0) return;
  if (losses.size() == kSpikeSteps) {
    double mean = 0;
    for (const double loss : losses) mean += loss / kSpikeSteps;
    if (log.loss > mean + options.spike) {
      throw InputError(
          fmt::format("{}: the loss of step {} is {:.3f}, {:.3f} above the mean of the {} before "
                      "it; its largest "
                      "expert load is {:.2f} times the mean, its gradient's norm {:.3g}",
                      plan_.path,
                      log.step + 1,
                      log.loss,
                      log.loss - mean,
                      kSpikeSteps,
                      log.max_expert_load,
                      log.gradient_norm));
    }
    losses.pop_front();
  }
  losses.push_back(log.loss);
}

// A signal may have reached one process alone.
bool Trainer::asked_to_stop(const TrainOptions& options) {
  if (!options.stop) return false;
  int64_t asked = options.stop() ? 1 : 0;
  communicator_->sum_over_processes(std::span<int64_t>(&asked, 1));
  return asked > 0;
}

// A caller that fails, as on a full disk, does so on one process only: the others must not wait.
void Trainer::tell(const TrainOptions& options, const StepLog& log) {
  try {
    options.on_step(log);
  } catch (...) {
    communicator_->abort();
    throw;
  }
}

void Trainer::record_choices(bool on) {
  records_choices_ = on;
  ranks_.record_choices(on);
}

std::vector<int32_t> Trainer::recorded_choices(int64_t layer,
                                               int32_t data_rank,
                                               int64_t micro_batch) {
  CHECK(records_choices_) << "no choices are recorded";
  const auto local = ranks_.recorded_choices(layer, data_rank, micro_batch).choices;
  std::vector<int64_t> choices(local.begin(), local.end());
  choices.resize(
      static_cast<size_t>(plan_.micro_batch_tokens() * plan_.model.architecture.active_experts), 0);
  communicator_->sum_over_processes(choices);
  return {choices.begin(), choices.end()};
}

std::vector<float> Trainer::recorded_weights(int64_t layer,
                                             int32_t data_rank,
                                             int64_t micro_batch) {
  CHECK(records_choices_) << "no choices are recorded";
  const auto local = ranks_.recorded_choices(layer, data_rank, micro_batch).weights;
  std::vector<double> weights(local.begin(), local.end());
  weights.resize(
      static_cast<size_t>(plan_.micro_batch_tokens() * plan_.model.architecture.active_experts), 0);
  communicator_->sum_over_processes(weights);
  return {weights.begin(), weights.end()};
}

namespace {

// As JSON, which has no NaN and no infinity; a whole number keeps its point.
std::string number(double x) {
  if (!std::isfinite(x)) return "null";
  const std::string text = fmt::format("{}", x);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}
std::string numbers(const std::vector<double>& list) {
  std::string text;
  for (const double x : list) text += (text.empty() ? "" : ",") + number(x);
  return "[" + text + "]";
}

}  // namespace

std::string print_step(const StepLog& log) {
  std::string out = fmt::format("{{\"step\":{}", log.step + 1);
  const auto add = [&](std::string_view key, const std::string& value) {
    out += fmt::format(",\"{}\":{}", key, value);
  };
  add("loss", number(log.loss));
  if (!log.mtp_losses.empty()) add("mtp_loss", numbers(log.mtp_losses));
  add("gradient_norm", number(log.gradient_norm));
  add("learning_rate", number(log.learning_rate));
  add("sequences", std::to_string(log.sequences));
  add("step_time_s", number(log.time.seconds()));
  add("tokens_per_s", number(log.tokens_per_s));
  add("tflops_per_rank", number(log.tflops_per_rank));
  add("activation_bytes", std::to_string(log.memory.count()));
  add("max_expert_load", number(log.max_expert_load));
  add("expert_load", numbers(log.expert_load));
  add("expert_load_p50", numbers(log.expert_load_p50));
  add("expert_load_p90", numbers(log.expert_load_p90));
  add("expert_load_p95", numbers(log.expert_load_p95));
  add("expert_load_p99", numbers(log.expert_load_p99));
  add("bubble_fraction", number(log.bubble));
  add("exposed_comm_fraction", number(log.exposed_comm));
  if (log.overruns.ops > 0) {
    add("overruns", std::to_string(log.overruns.ops));
    add("overrun_s", number(log.overruns.time.seconds()));
  }
  if (log.validation_loss) add("validation_loss", number(*log.validation_loss));
  return out + "}";
}

}  // namespace rehearse
