// rehearse plan: searches layouts.

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/numbers.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/megatron.h"
#include "cli/plan_report.h"
#include "plan/capabilities.h"
#include "plan/hugging_face.h"
#include "search/search.h"
#include "search/sensitivity.h"

namespace rehearse::cli {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

std::optional<int64_t> whole_number(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "16", "1,2,4", "1..8".
std::vector<int64_t> numbers(const Options& options, const std::string& name, IntegerRange range) {
  const std::string text = options.text(name);
  const auto bad = [&](const std::string& part) {
    return UsageError(
        fmt::format("plan: --{} {}: '{}' is no number from {} to {}; expected one such "
                    "as 16, several such as 1,2,4, or a range such as 1..8",
                    name,
                    text,
                    part,
                    range.min,
                    range.max));
  };
  const auto number = [&](const std::string& part) {
    const auto value = whole_number(part);
    if (!value || *value < range.min || *value > range.max) throw bad(part);
    return *value;
  };
  std::vector<int64_t> all;
  for (const std::string& part : split(text)) {
    const size_t dots = part.find("..");
    if (dots == std::string::npos) {
      all.push_back(number(part));
      continue;
    }
    const int64_t first = number(part.substr(0, dots));
    const int64_t last = number(part.substr(dots + 2));
    if (last < first) throw bad(part);
    constexpr int64_t kMost = 100'000;
    if (last - first >= kMost) throw bad(part);
    for (int64_t i = first; i <= last; ++i) all.push_back(i);
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

template <typename E, size_t N>
std::vector<E> choices(const Options& options,
                       const std::string& name,
                       const NameTable<E, N>& table) {
  std::vector<E> all;
  for (const std::string& part : split(options.text(name))) {
    const auto found = table.find(part);
    if (!found) {
      throw UsageError(fmt::format(
          "plan: --{} {}: '{}' is none of {}", name, options.text(name), part, table.list()));
    }
    all.push_back(*found);
  }
  return all;
}

// Of a range those that machines come in: whole nodes, powers of two and three times these, and the
// two ends.
std::vector<int64_t> read_gpus(const Options& options, const Cluster& c) {
  constexpr IntegerRange kGpus{.min = 1, .max = 10'000'000};
  const std::string text = options.text("gpus");
  const size_t dots = text.find("..");
  if (dots == std::string::npos) return numbers(options, "gpus", kGpus);
  std::vector<int64_t> ends;
  for (const std::string& end : {text.substr(0, dots), text.substr(dots + 2)}) {
    const auto value = whole_number(end);
    if (!value || *value < 1) {
      throw UsageError(
          fmt::format("plan: --gpus {}: expected a number such as 2048, several such as "
                      "1024,2048, or a range such as 256..2048",
                      text));
    }
    ends.push_back(*value);
  }
  if (ends[1] < ends[0]) {
    throw UsageError(fmt::format("plan: --gpus {}: the range's end is before its begin", text));
  }
  std::vector<int64_t> all = ends;
  for (int64_t nodes = 1; nodes * c.devices_per_node <= ends[1]; nodes *= 2) {
    for (const int64_t n : {nodes * c.devices_per_node, 3 * nodes * c.devices_per_node}) {
      if (n > ends[0] && n < ends[1]) all.push_back(n);
    }
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

double read_tokens(const Options& options) {
  auto tokens = parse_tokens(options.text("tokens"));
  if (!tokens) tokens = parse_tokens(options.text("tokens") + " tokens");
  if (!tokens || *tokens <= 0) {
    throw UsageError(
        fmt::format("plan: --tokens {}: expected a number of tokens above 0, such as 14.8T",
                    options.text("tokens")));
  }
  return *tokens;
}

// What is asked, as a plan whose layout is to be found.
Plan base_of(const Options& options) {
  Plan base;
  if (!options.plan_paths().empty()) {
    base = load_plan(options.plan_path());
    options.refuse({"model"}, "is the plan's");
  } else {
    for (const char* needed : {"model", "cluster", "batch"}) {
      if (options.has(needed)) continue;
      throw UsageError(fmt::format("plan: --{} is needed, or a plan file that says it", needed));
    }
    base.path = "rehearse plan";
    base.files = {"rehearse plan", find_shared(options.text("model"), "models"), ""};
    base.model = load_model(base.files[1]);
    base.training.precision = Precision::kBf16;
    base.training.sequence_length = 4096;
    base.training.micro_batch_size = 1;
    base.training.micro_batches = 1;
  }
  if (options.has("cluster")) {
    base.files[2] = find_shared(options.text("cluster"), "topologies");
    base.cluster = load_cluster(base.files[2]);
    base.calibration.reset();
  }
  if (options.has("calibration")) base.calibration = options.text("calibration");
  if (options.has("tokens")) base.training.tokens = read_tokens(options);
  if (options.has("usd-per-gpu-hour")) {
    base.budget.usd_per_gpu_hour = options.number("usd-per-gpu-hour", 0, 1e6);
  }
  const auto refuse = [&](const Reasons& reasons) {
    if (reasons.empty()) return;
    throw InputError(fmt::format("{}: {}", reasons.front().setting, reasons.front().message));
  };
  refuse(why_not(base.cluster, base.model.architecture));
  return base;
}

SearchSpace space_of(const Options& options, const Plan& base) {
  SearchSpace s;
  constexpr IntegerRange kCount{.min = 1, .max = 1'000'000'000};
  constexpr IntegerRange kRanks{.min = 1, .max = 1'000'000};
  if (options.has("gpus"))
    s.gpus = read_gpus(options, base.cluster);
  else if (!options.plan_paths().empty() && !options.has("cluster"))
    s.gpus = {base.layout.world()};
  if (options.has("batch")) {
    s.batches = numbers(options, "batch", kCount);
  } else {
    s.batches = {base.layout.dp * base.training.micro_batches * base.training.micro_batch_size};
  }
  if (options.has("sequence")) {
    s.sequences = numbers(options, "sequence", {.min = 1, .max = 100'000'000});
  }
  if (options.has("precision")) s.precisions = choices(options, "precision", kPrecisions);
  const auto list = [&](const char* name, std::vector<int64_t>& into, IntegerRange range) {
    if (options.has(name)) into = numbers(options, name, range);
  };
  list("pp", s.pp, kRanks);
  list("chunks", s.chunks, {.min = 1, .max = 10'000});
  list("ep", s.ep, kRanks);
  list("etp", s.etp, kRanks);
  list("tp", s.tp, kRanks);
  list("cp", s.cp, kRanks);
  list("micro-batch-size", s.micro_batch_sizes, {.min = 1, .max = 1'000'000});
  list("zero", s.zero_stages, {.min = 0, .max = 3});
  list("communication-sms", s.communication_sms, {.min = 1, .max = base.cluster.sms});
  if (options.has("schedule")) s.schedules = choices(options, "schedule", kSchedules);
  if (options.has("dispatcher")) s.dispatchers = choices(options, "dispatcher", kDispatchers);
  if (options.has("recompute")) {
    for (const std::string& name : split(options.text("recompute"))) {
      const auto& all = named_recomputes();
      const auto found = std::find_if(
          all.begin(), all.end(), [&](const NamedRecompute& n) { return n.name == name; });
      if (found == all.end()) {
        throw UsageError(
            fmt::format("plan: --recompute {}: expected none, light, selective or full",
                        options.text("recompute")));
      }
      s.recomputes.push_back(found->recompute);
    }
  }
  if (options.has("stages")) {
    for (const std::string& part : split(options.text("stages"))) {
      const auto value = whole_number(part);
      if (!value || *value < 0) {
        throw UsageError(
            fmt::format("plan: --stages {}: expected layers of every stage, such as 4,4,4",
                        options.text("stages")));
      }
      s.layers_per_stage.push_back(*value);
    }
  }
  return s;
}

// What was asked, as options, for commands that make a row again.
std::string asked(const Options& options) {
  std::string text;
  if (!options.plan_paths().empty()) {
    text = options.plan_path();
  } else {
    text = fmt::format("--model {}", options.text("model"));
  }
  for (const char* name : {"cluster", "tokens", "calibration", "imbalance"}) {
    if (options.has(name) && !(std::string(name) == "imbalance" && options.text(name) == "1")) {
      text += fmt::format(" --{} {}", name, options.text(name));
    }
  }
  return text;
}

// A layout that is in use: of a plan file, or of Megatron-LM's arguments.
Candidate present_of(const std::string& path, const Plan& base, const SearchSpace& space) {
  const std::string text = read_file(path);
  if (text.find("--") < text.find(':')) {
    MegatronRun run = read_megatron(text, space.gpus.front(), base);
    if (!run.not_read.empty()) {
      std::cerr << fmt::format(
          "note: {}: says nothing about a layout: {}\n", path, fmt::join(run.not_read, " "));
    }
    return std::move(run.candidate);
  }
  const Plan plan = load_plan(path);
  if (plan.model.architecture != base.model.architecture) {
    throw InputError(fmt::format("{}: is of another model, {}", path, plan.model.name));
  }
  Candidate own = candidate_of(plan);
  own.communication_sms = base.cluster.communication_sms;
  return own;
}

// The present layout beside the best, part by part; and beside what it was measured to take.
void put_present(Report& r,
                 const Plan& base,
                 const std::optional<Calibration>& calibration,
                 const Candidate& present,
                 const SearchResult& result,
                 Objective objective,
                 std::optional<double> measured) {
  const Plan own = plan_of(base, present);
  Estimator estimator(base, calibration);
  estimator.begin_block(present);
  const Screened screened{present, estimator.estimate(present), 0, 0};
  const Scored s = score(base, calibration, screened, objective);
  const Scored& best = result.best.front();
  r.say(fmt::format("present: {}\n  {:.2f} s (90%: {:.2f} to {:.2f}), {:.0f} GB: {}; {}\n",
                    to_string(present),
                    s.step,
                    s.low,
                    s.high,
                    static_cast<double>(s.memory.need().count()) * 1e-9,
                    kFits[s.fit],
                    s.limited_by));
  Report& of = r.section("present");
  of.put("layout_text", to_string(present));
  of.put("step_time_s", s.step);
  of.put("interval_s", {s.low, s.high});
  of.put("memory_bytes", s.memory.need());
  of.put("memory_verdict", kFits[s.fit]);
  of.put("best_over_present", best.score / s.score - 1);
  const auto parts =
      compare_steps(own, plan_of(base, best.screened.candidate), calibration, calibration);
  r.say(fmt::format("  the first below: {} ({})\n",
                    percent(best.score / s.score - 1),
                    best.low <= s.high && s.low <= best.high ? "within each other's interval"
                                                             : "beyond its interval"));
  for (const PartDifference& p : parts) {
    r.say(fmt::format("    {:<32} {:>8.2f} -> {:>8.2f}\n", p.part, p.a, p.b));
    Report& part = of.item("parts");
    part.put("part", p.part);
    part.put("present", p.a);
    part.put("best", p.b);
  }
  if (measured) {
    const double off = s.step / *measured - 1;
    const double more = *measured - s.step;
    of.put("measured_s", *measured);
    of.put("error", off);
    r.say(fmt::format("  measured {:.2f} s: predicted {} of it; {}\n",
                      *measured,
                      percent(off),
                      *measured >= s.low && *measured <= s.high
                          ? "within the interval"
                          : "outside of the interval: something is not as modelled"));
    // What each part would have to be, were it alone to blame.
    for (const PartDifference& p : parts) {
      if (p.part == "step" || p.a < 0.005 * s.step) continue;
      if (p.a + more <= 0) continue;
      r.say(fmt::format(
          "    if it is {} alone: {:.2f} times what is told\n", p.part, (p.a + more) / p.a));
    }
  }
  r.say("\n");
}

// What the first layout's step hangs on, and what other hardware would make of it.
void put_sensitivities(Report& r,
                       const Plan& plan,
                       const std::optional<Calibration>& calibration,
                       double step) {
  Report::Table table{
      .columns = {{"knob", "knob"}, {"slope", "dlog step / dlog knob"}, {"note", "asked how"}}};
  for (const Sensitivity& s : sensitivities(plan, calibration)) {
    table.row(
        {s.knob, s.slope ? Value(fmt::format("{:+.3f}", *s.slope), *s.slope) : Value(), s.note});
  }
  r.say("\n");
  r.table("sensitivities", std::move(table));
  for (const WhatIf& w : what_ifs(plan, calibration)) {
    Report& of = r.item("what_ifs");
    of.put("what", w.what);
    of.put("step_time_s", w.step);
    r.say(
        fmt::format("  what if: {}: {:.2f} s ({})\n", w.what, w.step, percent(w.step / step - 1)));
  }
}

// Faster layouts that need more memory than there is: how much.
void put_nearest(Report& r, const Plan& base, const SearchResult& result) {
  const Scored& best = result.best.front();
  for (const Screened& s : result.pareto) {
    if (fit_of(s.estimate.need, base.cluster.memory) != Fit::kShort) continue;
    if (s.score >= best.screened.score) continue;
    const double more =
        static_cast<double>(s.estimate.need.count() - base.cluster.memory.count()) * 1e-9;
    r.say(fmt::format(
        "\nwith {:.1f} GB more per device: {}, {:.2f} s by formulas ({} of the first's)\n",
        more,
        to_string(s.candidate),
        s.estimate.step,
        percent(s.score / best.screened.score - 1)));
    Report& of = r.section("nearest_better");
    of.put("layout_text", to_string(s.candidate));
    of.put("missing_bytes", Bytes(s.estimate.need.count() - base.cluster.memory.count()));
    of.put("estimated_s", s.estimate.step);
    return;
  }
}

// Why nothing fits, and what would help: the least that any legal layout needs.
std::string nothing_fits(const Plan& base, const SearchResult& result) {
  const Screened& s = *result.smallest;
  const double have = static_cast<double>(base.cluster.memory.count()) * 1e-9;
  const double need = static_cast<double>(s.estimate.need.count()) * 1e-9;
  return fmt::format(
      "none of {} legal layouts fits: the smallest, {}, needs {:.1f} GB of {:.1f} GB, {:.1f} GB "
      "too "
      "much: {}. Use more GPUs, a smaller model or a shorter sequence",
      result.legal,
      to_string(s.candidate),
      need,
      have,
      need - have,
      memory_text(base, s));
}

}  // namespace

int plan_layouts(const Arguments& args) {
  Options options(
      {.name = "plan",
       .about = "Searches layouts: every legal combination of pipeline, chunks, expert, tensor, "
                "context and\n"
                "data parallelism, schedule, micro-batch, ZeRO, recomputation and stages is "
                "screened by\n"
                "formulas for memory and time; the best that fit are simulated and ranked. Batch, "
                "sequence\n"
                "and precision are constraints, unless several are given. A plan file says what no "
                "option\n"
                "does; what is searched is its layout.",
       .examples =
           "  rehearse plan --model deepseek-v3 --cluster h800-2048 --batch 15360 --precision fp8 "
           "--tokens 14.8T\n"
           "  rehearse plan plan.yaml --gpus 256..2048 --rank-by cost --days 60\n"
           "  rehearse plan plan.yaml --pp 16 --schedule dualpipe,1f1b --out layouts --csv "
           "all.csv\n",
       .plan = PlanArgument::kNoneOrOne});
  options.value("model", "MODEL", "a model file, or one that comes with rehearse (deepseek-v3)")
      .value("cluster", "CLUSTER", "a topology file, or one that comes with rehearse (h800-2048)")
      .value("gpus", "N", "devices to use: N, N,M or A..B (all of the cluster's)")
      .value("batch", "N", "sequences per step, of all GPUs together")
      .value("sequence", "N", "tokens per sequence (4096)")
      .value("precision", "NAME", "bf16 or fp8 (bf16)")
      .value("tokens", "N", "of the whole training, such as 14.8T, for GPU-hours and days")
      .value("days", "N", "leave out what takes longer (needs --tokens)")
      .value("usd-per-gpu-hour", "X", "price, for the cost of the whole training")
      .value("rank-by", "WHAT", "time, or cost: GPU-hours", "time")
      .value("pp", "N", "pipeline-parallel ranks: N, N,M or A..B; so for all that follow")
      .value("chunks", "N", "stages per rank of interleaved-1f1b")
      .value("ep", "N", "expert-parallel ranks")
      .value("etp", "N", "ranks that share an expert's matrices")
      .value("tp", "N", "tensor-parallel ranks")
      .value("cp", "N", "context-parallel ranks")
      .value("micro-batch-size", "N", "sequences of a micro-batch")
      .value("zero", "N", "ZeRO stages, 0 to 3")
      .value("schedule", "NAMES", std::string(kSchedules.list()))
      .value("recompute",
             "NAMES",
             "none, light (norms, MLA up-projections, activations), selective, full")
      .value("stages", "N,...", "layers of every stage, instead of even and balanced ones")
      .value("dispatcher", "NAMES", std::string(kDispatchers.list()))
      .value("communication-sms", "N", "SMs that communication kernels hold")
      .value("calibration", "FILE", "calibration or device file; none: flops and bytes alone")
      .value("imbalance", "X", "rows of the fullest rank's experts over the mean, for memory", "1")
      .value("simulate", "N", "how many of the best to simulate", "200")
      .value("show", "N", "how many to show", "10")
      .value("threads", "N", "side by side (all processors)")
      .value("judge-screen",
             "N",
             "instead: simulate N random layouts that fit, and say how well the formulas told them")
      .value(
          "present",
          "FILE",
          "a layout that is in use, beside what is found: a plan file, or a file of Megatron-LM's "
          "arguments")
      .value("measured", "SECONDS", "with --present: the step it takes, to show where that departs")
      .flag("illegal", "what is not legal, by reason, with how many and an example each")
      .value("out",
             "FOLDER",
             "write the shown ones there as plan files, 1.yaml and so on (400 at most)")
      .output("csv", "write all that were simulated as a table");
  if (!options.parse(args)) return 0;
  const auto begin = std::chrono::steady_clock::now();
  Plan base = base_of(options);
  std::vector<std::string> written;
  const auto show = static_cast<size_t>(options.integer("show", {.min = 1, .max = 1'000'000}));
  if (options.has("out")) {
    constexpr size_t kMostFiles = 400;
    for (size_t i = 0; i < std::min(show, kMostFiles); ++i) {
      written.push_back(
          (std::filesystem::path(options.text("out")) / fmt::format("{}.yaml", i + 1)).string());
    }
  }
  std::vector<std::string> read(base.files.begin() + 1, base.files.end());
  options.check_outputs(written, read);
  const SearchSpace asked_space = space_of(options, base);
  const SearchSpace space = filled(asked_space, base);
  if (!space.sequences.empty()) base.training.sequence_length = space.sequences.front();
  base.training.precision = space.precisions.front();
  const auto calibration = find_calibration(options, base);
  use_measured_links(base, calibration);
  const std::string further = asked(options);

  SearchOptions how;
  how.objective = choices(options, "rank-by", kObjectives).front();
  how.simulations = options.integer("simulate", {.min = 1, .max = 1'000'000});
  how.shown = static_cast<int64_t>(show);
  how.imbalance = options.number("imbalance", 0.999999, 1000);
  how.threads = options.has("threads")
                    ? static_cast<int32_t>(options.integer("threads", {.min = 1, .max = 1024}))
                    : static_cast<int32_t>(host_cores());
  std::optional<double> days;
  if (options.has("days")) {
    if (!base.training.tokens) throw UsageError("plan: --days needs --tokens");
    days = options.number("days", 0, 1e6);
    how.most_seconds_per_token = *days * 86400 / *base.training.tokens;
  }
  std::optional<double> measured;
  if (options.has("measured")) {
    if (!options.has("present")) throw UsageError("plan: --measured needs --present");
    std::string text = options.text("measured");
    if (text.ends_with('s')) text.pop_back();
    const auto seconds = number_of(text);
    if (!seconds || *seconds <= 0) {
      throw UsageError(fmt::format("plan: --measured {}: expected seconds above 0, such as 4.2s",
                                   options.text("measured")));
    }
    measured = *seconds;
  }
  std::optional<Candidate> present;
  if (options.has("present")) present = present_of(options.text("present"), base, space);
  std::mutex progress_lock;
  Progress screening({.label = "screen", .total = 0, .quiet = options.quiet()});
  std::optional<Progress> simulating;
  how.progress = [&](int64_t screened, int64_t simulated, int64_t of) {
    const std::lock_guard guard(progress_lock);
    if (of == 0) {
      screening.update(screened, "layouts");
      return;
    }
    if (!simulating) {
      simulating.emplace(
          Progress::Options{.label = "simulate", .total = of, .quiet = options.quiet()});
    }
    simulating->update(simulated);
  };
  if (options.has("judge-screen")) {
    const ScreenError e =
        judge_screen(base,
                     calibration,
                     space,
                     options.integer("judge-screen", {.min = 2, .max = 1'000'000}),
                     how.threads);
    Report r;
    r.say(fmt::format("{} on {}: what the formulas told of random legal layouts that fit\n\n",
                      base.model.name,
                      base.cluster.name));
    r.line("layouts", "simulated", e.layouts);
    r.line("layouts_too_long", "given up after 10 s", e.too_long);
    r.line("rank_correlation",
           "rank correlation",
           {fmt::format("{:.3f}", e.rank_correlation), e.rank_correlation});
    r.line("mean_absolute_error", "mean absolute error", share(e.mean_absolute));
    r.line("bias", "bias", signed_share(e.bias));
    r.line("tightest_bound",
           "largest bound over step",
           {fmt::format("{:.3f}", e.tightest_bound), e.tightest_bound});
    options.print(r);
    return 0;
  }
  SearchResult result = screen(base, calibration, space, how);
  if (result.legal == 0) {
    std::string why;
    const auto reasons = count_illegal(base, space);
    for (size_t i = 0; i < std::min<size_t>(3, reasons.size()); ++i) {
      why += fmt::format("\n  {} times: {}: {}",
                         reasons[i].count,
                         reasons[i].example.setting,
                         reasons[i].example.message);
    }
    throw InputError(fmt::format("no layout is legal for what was asked:{}",
                                 why.empty() ? " nothing divides these GPUs" : why));
  }
  if (result.fits + result.tight == 0) throw InputError(nothing_fits(base, result));
  simulate_best(base, calibration, how, result);
  simulating.reset();
  if (result.best.empty() && result.too_long > 0) {
    throw InputError(fmt::format(
        "{} layouts fit; the {} that the formulas put first would each take over ten "
        "seconds to simulate, since their ranks do not fold: ask for another ep, etp or tp",
        result.fits + result.tight,
        result.too_long));
  }
  if (days) {
    std::erase_if(result.best, [&](const Scored& s) {
      const PlanFigures f = figures_of(base, s.screened.candidate, s.step);
      return *f.days > *days;
    });
    if (result.best.empty()) {
      throw InputError(fmt::format(
          "no layout takes {} days or less{}",
          *days,
          result.fastest
              ? fmt::format(
                    ": the fastest, {} on {} GPUs, takes {:.1f} days, {:.1f} too long",
                    to_string(result.fastest->candidate),
                    result.fastest->candidate.gpus,
                    *figures_of(base, result.fastest->candidate, result.fastest->estimate.step)
                         .days,
                    *figures_of(base, result.fastest->candidate, result.fastest->estimate.step)
                            .days -
                        *days)
              : ""));
    }
  }

  Report r;
  r.say(fmt::format("{} on {}: batch {}, sequence {}, {}\n",
                    base.model.name,
                    base.cluster.name,
                    fmt::join(space.batches, ", "),
                    fmt::join(space.sequences, ", "),
                    kPrecisions[space.precisions.front()]));
  for (const std::string& line : defaults_of(asked_space, space)) r.say("  " + line + "\n");
  r.say(fmt::format(
      "{} legal layouts screened in {:.1f} s: {} fit, {} with less than 5% to spare, {} do not; {} "
      "simulated in {:.1f} s",
      result.legal,
      result.screen_seconds,
      result.fits + result.tight,
      result.tight,
      result.short_of_memory,
      result.simulated,
      result.simulate_seconds));
  r.say(result.pruned > 0 ? fmt::format(", {} more cannot be among those shown\n", result.pruned)
                          : "\n");
  r.say(result.unproven == 0
            ? "no layout that was not simulated can be faster than the first\n\n"
            : fmt::format(
                  "{} more could be faster by their bound of computation alone, though not by "
                  "their estimate\n\n",
                  result.unproven));
  r.put("layouts_legal", result.legal);
  r.put("layouts_fit", result.fits + result.tight);
  r.put("layouts_tight", result.tight);
  r.put("layouts_short", result.short_of_memory);
  r.put("layouts_simulated", result.simulated);
  r.put("layouts_pruned", result.pruned);
  r.put("layouts_too_long", result.too_long);
  r.put("layouts_unproven", result.unproven);
  r.put("screen_s", result.screen_seconds);
  r.put("simulate_s", result.simulate_seconds);
  if (present) put_present(r, base, calibration, *present, result, how.objective, measured);
  put_layouts(r, base, result, further, show);
  const Scored& best = result.best.front();
  r.say(fmt::format("\nthe first: {}\n{}\n",
                    to_string(best.screened.candidate),
                    memory_text(base, best.screened)));
  r.say(fmt::format("again:    {}\n", command_of(base, best.screened.candidate, further)));
  if (base.cluster.of_gpus()) {
    r.say(fmt::format("Megatron: {}\n          {}\n",
                      megatron_arguments(base, best.screened.candidate),
                      launch_line(base, best.screened.candidate)));
    r.put("megatron_arguments", megatron_arguments(base, best.screened.candidate));
    r.put("launch", launch_line(base, best.screened.candidate));
    put_sensitivities(r, plan_of(base, best.screened.candidate), calibration, best.step);
  }
  put_nearest(r, base, result);
  put_pareto(r, base, result);
  if (options.has("illegal")) {
    r.say("\nnot legal\n");
    for (const IllegalCount& c : count_illegal(base, space)) {
      r.say(fmt::format("  {:>9} {}: {}\n            such as {}\n",
                        c.count,
                        c.example.setting,
                        c.example.message,
                        c.layout));
      Report& of = r.item("illegal");
      of.put("count", c.count);
      of.put("setting", c.example.setting);
      of.put("message", c.example.message);
      of.put("example", c.layout);
    }
  }
  if (options.has("csv")) write_file(options.text("csv"), print_csv(base, result));
  for (size_t i = 0; i < std::min(written.size(), result.best.size()); ++i) {
    write_file(written[i], print_plan(plan_of(base, result.best[i].screened.candidate)));
  }
  if (!written.empty()) {
    r.say(fmt::format("\nwrote {} plans to {}\n",
                      std::min(written.size(), result.best.size()),
                      options.text("out")));
  }
  r.put("wall_s", std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
