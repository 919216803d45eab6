#include "cli/results.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <sys/resource.h>

#include "base/progress.h"
#include "base/statistics.h"
#include "cli/command.h"

namespace rehearse::cli {
namespace {

// Bytes that the most loaded device must hold: on a CPU node all of its ranks share the memory.
Bytes device_need(const Plan& plan) {
  Bytes most;
  for (int64_t r = 0; r < plan.layout.pp; ++r) most = std::max(most, rank_memory(plan, r).total());
  if (plan.cluster.device != DeviceKind::kGpu) {
    most = most * std::min(plan.layout.world(), plan.cluster.devices_per_node);
  }
  return most;
}

// Of this process so far.
int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{1024} * usage.ru_maxrss;
}

std::string breakdown_text(const Summary& s) {
  Table table({"rank", "F", "B", "W", "F&B", "bubble", "optimizer", "exposed comm"});
  const auto row = [&](const std::string& name, const Breakdown& b) {
    table.row({name,
               to_string(b.f),
               to_string(b.b),
               to_string(b.w),
               to_string(b.fb),
               to_string(b.bubble),
               to_string(b.optimizer),
               to_string(b.exposed_comm)});
  };
  constexpr size_t kShown = 8;
  for (size_t r = 0; r < std::min(kShown, s.ranks.size()); ++r) {
    row(std::to_string(r), s.ranks[r]);
  }
  if (s.ranks.size() > kShown) table.row({fmt::format("... {} ranks", s.ranks.size())});
  row("mean", mean(s.ranks));
  return table.text();
}

// Of a standard normal, by bisection of the error function.
double normal_quantile(double probability) {
  double low = -8;
  double high = 8;
  while (high - low > 1e-9) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < probability ? low : high) = middle;
  }
  return low;
}

// Standard deviation of the logarithm of the machine's speed from one minute to the next: how far
// the calibration's rounds lie apart, as Student's t sees it, and how far single calls do, which
// on an otherwise idle machine is its speed from one moment to the next.
double common_spread(const Calibration& c) {
  double sum = 0;
  double squares = 0;
  for (const double d : c.drift) {
    sum += std::log(d);
    squares += std::log(d) * std::log(d);
  }
  const auto n = static_cast<double>(c.drift.size());
  const double rounds = n < 2 ? 0 : std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)));
  std::vector<double> of_calls;
  for (const auto& [call, t] : c.kernels) {
    // Shorter ones show the clock's own spread.
    if (t.alone < Duration::microseconds(20)) continue;
    of_calls.push_back(std::log(t.high / t.low) / (2 * 1.645));
  }
  return std::hypot(rounds, median(of_calls));
}

}  // namespace

std::string percent(double signed_share) {
  return fmt::format("{:+.1f}%", 100 * signed_share);
}

namespace {

// That the program trains on: a pair is the forward pass of one micro-batch and the backward pass
// of another.
double tokens_of(const Plan& plan, const Program& program) {
  return static_cast<double>(program.spec().mode == Mode::kPair
                                 ? plan.micro_batch_tokens() * plan.layout.dp
                                 : plan.step_tokens());
}

}  // namespace

bool fits_memory(const Plan& plan) {
  return device_need(plan) <= plan.cluster.memory;
}

std::string memory_warning(const Plan& plan) {
  const Bytes need = device_need(plan);
  if (need <= plan.cluster.memory) return "";
  return fmt::format("\nWARNING: this does not fit: a {} needs {}, cluster '{}' has {}\n",
                     plan.cluster.device == DeviceKind::kGpu ? "device" : "node",
                     to_string(need),
                     plan.cluster.name,
                     to_string(plan.cluster.memory));
}

namespace {

// How a calibration's costs vary, in standard deviations of logarithms.
struct Spread {
  double common = 0;        // of all of them together
  double interpolated = 0;  // of each that was not measured
};
Spread spread_of(const Plan& plan, const Calibration& calibration) {
  if (!calibration.gpu) return {common_spread(calibration), calibration.interpolation_error};
  const GpuCosts costs(*calibration.gpu, plan.cluster);
  return {costs.repetition_spread(), costs.transfer_error()};
}

// Standard deviation of the logarithm of the step's time, from steps simulated with costs drawn
// from the calibration's spread. Of clusters of GPUs with balanced experts and folded: their step's
// relative spread is the same, and it takes no time.
double step_spread(const Plan& plan, const Program& program, const Calibration& calibration) {
  const Spread spread = spread_of(plan, calibration);
  Plan drawn = plan;
  const bool gpu = plan.cluster.device == DeviceKind::kGpu;
  if (gpu) drawn.expert_load = {};
  // Fewer draws where each takes seconds.
  constexpr int64_t kOps = 2'000'000;
  const int64_t ops = gpu ? static_cast<int64_t>(program.ops().size()) : program.global_size();
  const auto draws =
      static_cast<uint64_t>(std::clamp<int64_t>(kOps / std::max<int64_t>(1, ops), 4, 24));
  double sum = 0;
  double squares = 0;
  for (uint64_t i = 0; i < draws; ++i) {
    // Evenly spaced quantiles of the common factor, in an order that the seeds know nothing of.
    const double z = normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(draws));
    const CostVariation variation{
        .common = std::exp(spread.common * z), .interpolated = spread.interpolated, .seed = i + 1};
    const Duration step =
        rehearse::simulate(drawn,
                           program,
                           calibration,
                           {.variation = variation, .keep = Keep::kSummary, .fold = gpu})
            .summary.step;
    const double log = std::log(step.seconds());
    sum += log;
    squares += log * log;
  }
  const auto n = static_cast<double>(draws);
  return std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1)));
}

}  // namespace

StepPrediction predict(const Plan& plan,
                       const Program& program,
                       const std::optional<Calibration>& calibration,
                       bool quiet,
                       SimulateOptions options) {
  // Worth showing from some seconds on.
  constexpr int64_t kShown = 4'000'000;
  Progress progress({.label = "simulate",
                     .total = program.global_size(),
                     .quiet = quiet || options.fold || program.global_size() < kShown});
  const auto begin = std::chrono::steady_clock::now();
  StepPrediction p;
  options.progress = [&](int64_t done) { progress.update(done); };
  p.median = rehearse::simulate(plan, program, calibration, options);
  p.summary = std::move(p.median.summary);
  const double spread = calibration ? step_spread(plan, program, *calibration) : 0;
  constexpr double kNinety = 1.645;  // standard deviations either way that hold 90% of a normal
  p.low = Duration::seconds(p.summary.step.seconds() * std::exp(-kNinety * spread));
  p.high = Duration::seconds(p.summary.step.seconds() * std::exp(kNinety * spread));
  p.wall = Duration::seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  return p;
}

Json to_json(const Breakdown& b) {
  return {{"f", b.f.seconds()},
          {"b", b.b.seconds()},
          {"w", b.w.seconds()},
          {"fb", b.fb.seconds()},
          {"bubble", b.bubble.seconds()},
          {"optimizer", b.optimizer.seconds()},
          {"exposed_comm", b.exposed_comm.seconds()},
          {"exchange_wait", b.exchange_wait.seconds()}};
}

Json to_json(const RankMemory& m) {
  return {{"parameters", m.parameters.count()},
          {"gradients", m.gradients.count()},
          {"optimizer", m.optimizer.count()},
          {"activations", m.activations.count()},
          {"total", m.total().count()}};
}

Json prediction_json(const Plan& plan, const Program& program, const StepPrediction& p) {
  Json memory = Json::array();
  for (int64_t r = 0; r < plan.layout.pp; ++r) memory.push_back(to_json(rank_memory(plan, r)));
  Json ranks = Json::array();
  for (int64_t r = 0; r < plan.layout.pp; ++r) {
    ranks.push_back(to_json(
        p.summary.ranks[static_cast<size_t>(program.global_rank({static_cast<int32_t>(r), 0}))]));
  }
  const double step = p.summary.step.seconds();
  const double tokens = tokens_of(plan, program);
  const Architecture& a = plan.model.architecture;
  const double flops =
      training_flops_per_token(a, plan.training.sequence_length, true).count() * tokens;
  Json j = {
      {"step_time_s", step},
      {"interval_s", {p.low.seconds(), p.high.seconds()}},
      {"exposed_comm_fraction", p.summary.exposed_comm_fraction},
      {"bubble_fraction", p.summary.bubble_fraction},
      {"exchange_wait_fraction", p.summary.exchange_wait_fraction},
      {"tokens_per_s", tokens / step},
      {"tflops_per_rank_causal", flops / step / static_cast<double>(plan.layout.world()) * 1e-12},
      {"ops", program.global_size()},
      {"simulated_ops", p.median.simulated_ops},
      {"simulated_data_ranks", p.median.data_ranks},
      {"sim_wall_s", p.wall.seconds()},
      {"sim_peak_memory_bytes", peak_memory()},
      {"memory_bytes", memory},
      {"fits_memory", fits_memory(plan)},
      {"breakdown_s", to_json(p.summary.ranks.front())},
      {"breakdown_mean_s", to_json(mean(p.summary.ranks))},
      {"breakdown_ranks_s", ranks},
      {"costs",
       {{"calibrated_calls", p.median.sources.measured},
        {"interpolated_calls", p.median.sources.interpolated},
        {"roofline_calls", p.median.sources.roofline},
        {"stated_calls", p.median.sources.stated},
        {"unmeasured", p.median.sources.unmeasured}}}};
  if (plan.cluster.device == DeviceKind::kGpu) {
    const ExchangeCounts& x = p.median.exchanges;
    j["all_to_alls"] = {
        {"alone", x.alone}, {"remembered", x.remembered}, {"disturbed", x.disturbed}};
  }
  return j;
}

std::string prediction_text(const Plan& plan, const Program& program, const StepPrediction& p) {
  const double tokens = tokens_of(plan, program);
  const Layout& l = plan.layout;
  std::string out = fmt::format("{} on {}: PP{} DP{} EP{}, {}, {} micro-batches of {} tokens\n\n",
                                plan.model.name,
                                plan.cluster.name,
                                l.pp,
                                l.dp,
                                l.ep,
                                name_of(l.schedule),
                                plan.training.micro_batches,
                                plan.micro_batch_tokens());
  out += fmt::format("  step time              {}", to_string(p.summary.step));
  if (p.low < p.high) {
    out += fmt::format("   (90%: {} to {})", to_string(p.low), to_string(p.high));
  }
  out += "\n";
  out += fmt::format("  tokens per second      {:.0f}\n", tokens / p.summary.step.seconds());
  out += fmt::format("  bubble                 {:.1f}% of the step, mean over ranks\n",
                     100 * p.summary.bubble_fraction);
  out += fmt::format("  exposed communication  {:.1f}%\n", 100 * p.summary.exposed_comm_fraction);
  if (p.summary.exchange_wait_fraction > 0) {
    out += fmt::format("  waiting in all-to-alls {:.1f}% for other ranks, hidden or not\n",
                       100 * p.summary.exchange_wait_fraction);
  }
  out += fmt::format(
      "  simulated              {} ops in {}", program.global_size(), to_string(p.wall));
  if (p.median.data_ranks < l.dp) {
    out += fmt::format(", {} of {} data ranks standing for all", p.median.data_ranks, l.dp);
  }
  out += "\n\n";
  out += breakdown_text(p.summary);
  out += "\nmemory per rank\n";
  Table table({"pipeline rank", "parameters", "gradients", "optimizer", "activations", "total"});
  for (int64_t r = 0; r < l.pp; ++r) {
    const RankMemory m = rank_memory(plan, r);
    table.row({std::to_string(r),
               to_string(m.parameters),
               to_string(m.gradients),
               to_string(m.optimizer),
               to_string(m.activations),
               to_string(m.total())});
  }
  out += table.text() + memory_warning(plan);
  const CostSources& s = p.median.sources;
  if (s.roofline > 0) {
    out += fmt::format(
        "\n{} of {} kernel calls are not in a calibration and are priced by their roofline"
        " (flops over peak, bytes over bandwidth): expect these to be optimistic.\n",
        s.roofline,
        s.roofline + s.measured + s.interpolated);
    if (plan.cluster.device == DeviceKind::kCpu) {
      out += fmt::format("`rehearse calibrate {}` measures them.\n", plan.path);
    }
  }
  return out;
}

Json training_json(const Plan& plan, const Program& program, const TrainResult& r) {
  const Summary s = summarize(program, r.timeline);
  const double step = r.median_step.seconds();
  return {{"steps", r.steps},
          {"loss_first", r.first_loss},
          {"loss_last", r.last_loss},
          {"val_loss", r.validation_loss ? Json(*r.validation_loss) : Json()},
          {"step_time_s", step},
          {"tokens_per_s", static_cast<double>(plan.step_tokens()) / step},
          {"max_expert_load", r.max_expert_load},
          {"exposed_comm_fraction", s.exposed_comm_fraction},
          {"bubble_fraction", s.bubble_fraction},
          {"breakdown_s", to_json(s.ranks.front())},
          {"breakdown_mean_s", to_json(mean(s.ranks))},
          {"activation_bytes", r.memory.count()}};
}

std::string training_text(const Plan& plan, const Program& program, const TrainResult& r) {
  const Summary s = summarize(program, r.timeline);
  std::string out = fmt::format(
      "{} steps: loss {:.4f} -> {:.4f}, {} nats per token\n",
      r.steps,
      r.first_loss,
      r.last_loss,
      r.validation_loss ? fmt::format("validation {:.4f}", *r.validation_loss) : "no validation,");
  out += fmt::format(
      "  step time (median)     {}\n  tokens per second      {:.0f}\n"
      "  bubble                 {:.1f}%\n  exposed communication  {:.1f}%\n"
      "  largest expert load    {:.2f} x mean (last tenth of the steps)\n\n",
      to_string(r.median_step),
      static_cast<double>(plan.step_tokens()) / r.median_step.seconds(),
      100 * s.bubble_fraction,
      100 * s.exposed_comm_fraction,
      r.max_expert_load);
  return out + breakdown_text(s);
}

}  // namespace rehearse::cli
