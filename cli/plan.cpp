// rehearse plan: searches layouts.

#include <filesystem>
#include <iostream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/megatron.h"
#include "cli/plan_report.h"
#include "cli/plan_request.h"
#include "cli/processes.h"
#include "search/share.h"

namespace rehearse::cli {

namespace {

struct Interrupted {
  int signal;
};

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
      .output(
          "journal",
          "keep there what is simulated: the same command goes on from it, if it was interrupted")
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
  const Stopwatch watch;
  Processes processes;
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
  how.objective = objective_of(options);
  how.simulations = options.integer("simulate", {.min = 1, .max = 1'000'000});
  how.shown = static_cast<int64_t>(show);
  how.imbalance = options.number("imbalance", 0.999999, 1000);
  how.threads = options.has("threads")
                    ? static_cast<int32_t>(options.integer("threads", {.min = 1, .max = 1024}))
                    : static_cast<int32_t>(std::max<int64_t>(1, host_cores() / processes.here()));
  how.team = processes.team();
  std::optional<Journal> journal;
  if (options.has("journal")) {
    if (processes.first()) {
      journal.emplace(options.text("journal"),
                      question_of(base, calibration_path(options, base), how.objective));
      how.journal = &*journal;
    }
    catch_interrupts();
  }
  std::optional<double> days;
  if (options.has("days")) {
    if (!base.training.tokens) throw UsageError("plan: --days needs --tokens");
    days = options.number("days", 0, 1e6);
    how.most_seconds_per_token = *days * 86400 / *base.training.tokens;
  }
  const std::optional<double> measured = measured_of(options);
  std::optional<Candidate> present;
  if (options.has("present")) present = present_of(options.text("present"), base, space);
  const bool quiet = options.quiet() || !processes.first();
  std::optional<Progress> screening, simulating;
  how.progress = [&](const SearchOptions::Done& done) {
    if (const auto signal = interrupted(); journal && signal) throw Interrupted{*signal};
    const auto show_on = [&](std::optional<Progress>& on, const char* label, int64_t total) {
      if (!on) on.emplace(Progress::Options{.label = label, .total = total, .quiet = quiet});
    };
    if (done.to == 0) {
      show_on(screening, "screen", done.of);
      screening->update(done.pieces, fmt::format("{} layouts", done.screened));
    } else {
      screening.reset();
      show_on(simulating, "simulate", done.to);
      simulating->update(done.simulated);
    }
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
    r.line("layouts_too_long", "given up, too many ranks", e.too_long);
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
  processes.begin();
  SearchResult result;
  try {
    result = screen(base, calibration, space, how);
    if (result.fits + result.tight > 0) simulate_best(base, calibration, how, result);
  } catch (const Interrupted& e) {
    screening.reset();
    simulating.reset();
    std::cerr << fmt::format(
        "rehearse: plan: interrupted; {} simulated layouts are in {}: the same command goes "
        "on with them\n",
        journal->known(),
        options.text("journal"));
    constexpr int kSignalled = 128;
    return kSignalled + e.signal;
  }
  screening.reset();
  simulating.reset();
  if (!processes.first()) return 0;
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
  if (result.best.empty() && result.too_long > 0) {
    throw InputError(fmt::format(
        "{} layouts fit; of the {} that the formulas put first every rank would have to be "
        "simulated, since they do not fold: ask for another ep, etp or tp",
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
  r.put("wall_s", watch.seconds());
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
