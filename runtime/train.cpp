#include "runtime/train.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <nlohmann/json.hpp>

namespace rehearse {

Trainer::Trainer(const Plan& plan, const std::string& text_path, Duration hang_timeout)
    : plan_(plan),
      program_(build_program(plan)),
      forward_program_(build_program(plan, Mode::kForward)),
      data_(text_path, plan),
      communicator_(plan.layout.world(),
                    plan.cluster.node_link || plan.cluster.network
                        ? std::make_unique<LinkShaper>(plan.cluster, plan.layout.world())
                        : nullptr),
      device_(plan, program_, data_, communicator_),
      workers_(program_, device_, hang_timeout),
      forward_workers_(forward_program_, device_, hang_timeout) {
  rehearse::validate(program_);
  rehearse::validate(forward_program_);
}

double Trainer::learning_rate(int64_t step) const {
  const Training& t = plan_.training;
  if (step < t.warmup_steps) {
    return t.learning_rate * static_cast<double>(step + 1) / static_cast<double>(t.warmup_steps);
  }
  const double span = static_cast<double>(std::max<int64_t>(1, t.steps - t.warmup_steps));
  const double share = std::min(1.0, static_cast<double>(step - t.warmup_steps) / span);
  return t.final_learning_rate +
         (t.learning_rate - t.final_learning_rate) * 0.5 * (1 + std::cos(std::numbers::pi * share));
}

StepLog Trainer::step(int64_t step) {
  const Architecture& a = plan_.model.architecture;
  StepLog log{.step = step, .learning_rate = learning_rate(step)};
  device_.begin_step({.step = step, .learning_rate = log.learning_rate});
  timeline_ = workers_.run_step();
  log.time = timeline_.step();
  log.loss = device_.mean_loss();
  log.gradient_norm = device_.gradient_norm();
  const auto tokens = static_cast<double>(plan_.step_tokens());
  log.tokens_per_s = tokens / log.time.seconds();
  const double flops =
      training_flops_per_token(a, plan_.training.sequence_length, true).count() * tokens;
  log.tflops_per_rank =
      flops / log.time.seconds() / static_cast<double>(plan_.layout.world()) * 1e-12;
  for (int64_t layer = a.dense_layers; layer < a.layers; ++layer) {
    std::vector<int64_t> load = device_.expert_load(layer);
    std::sort(load.begin(), load.end());
    double sum = 0;
    for (const int64_t n : load) sum += static_cast<double>(n);
    const double mean = sum / static_cast<double>(load.size());
    const auto over_mean = [&](size_t i) { return static_cast<double>(load[i]) / mean; };
    log.expert_load.push_back(over_mean(load.size() - 1));
    log.expert_load_p95.push_back(over_mean((load.size() * 95 + 99) / 100 - 1));
    log.max_expert_load = std::max(log.max_expert_load, log.expert_load.back());
  }
  log.overruns = device_.overruns();
  for (int64_t r = 0; r < plan_.layout.world(); ++r) {
    log.memory = std::max(log.memory, device_.peak_activation_memory(r));
  }
  if (!std::isfinite(log.loss)) {
    throw InputError(plan_.path + ": the loss is not finite after step " + std::to_string(step) +
                     "; a lower training.learning_rate or a higher warmup_steps may help");
  }
  return log;
}

double Trainer::validate(int64_t steps) {
  double total = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t sequences =
        plan_.training.micro_batches * plan_.training.micro_batch_size * plan_.layout.dp;
    device_.begin_step({.validation = true, .first_window = i * sequences});
    forward_workers_.run_step();
    total += device_.mean_loss();
  }
  return total / static_cast<double>(steps);
}

TrainResult Trainer::train(const TrainOptions& options) {
  TrainResult result;
  std::vector<std::pair<Duration, Timeline>> timelines;
  const bool has_validation = plan_.data.validation_fraction > 0;
  for (int64_t i = 0; i < options.steps; ++i) {
    StepLog log = step(i);
    timelines.emplace_back(log.time, timeline_);
    const bool last = i + 1 == options.steps;
    const bool due = last || (options.validate_every > 0 && (i + 1) % options.validate_every == 0);
    if (has_validation && due) log.validation_loss = validate(options.validation_steps);
    if (last) result.validation_loss = log.validation_loss;
    if (options.on_step) options.on_step(log);
    result.log.push_back(std::move(log));
  }
  // Early steps find cold caches and pools.
  const size_t skip = timelines.size() > 5 ? 2 : 0;
  std::sort(timelines.begin() + static_cast<std::ptrdiff_t>(skip),
            timelines.end(),
            [](const auto& x, const auto& y) { return x.first < y.first; });
  auto& median = timelines[skip + (timelines.size() - skip) / 2];
  result.median_step = median.first;
  result.timeline = std::move(median.second);
  const size_t tail = std::max<size_t>(1, result.log.size() / 10);
  for (size_t i = result.log.size() - tail; i < result.log.size(); ++i) {
    result.max_expert_load += result.log[i].max_expert_load / static_cast<double>(tail);
  }
  return result;
}

std::string print_step(const StepLog& log) {
  nlohmann::ordered_json j = {{"step", log.step},
                              {"loss", log.loss},
                              {"gradient_norm", log.gradient_norm},
                              {"learning_rate", log.learning_rate},
                              {"step_time_s", log.time.seconds()},
                              {"tokens_per_s", log.tokens_per_s},
                              {"tflops_per_rank", log.tflops_per_rank},
                              {"activation_bytes", log.memory.count()},
                              {"max_expert_load", log.max_expert_load},
                              {"expert_load", log.expert_load},
                              {"expert_load_p95", log.expert_load_p95}};
  if (log.overruns > 0) j["overruns"] = log.overruns;
  if (log.validation_loss) j["validation_loss"] = *log.validation_loss;
  return j.dump();
}

}  // namespace rehearse
