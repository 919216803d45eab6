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
#include "cli/megatron_report.h"
#include "cli/page/page.h"
#include "cli/plan_comparison.h"
#include "cli/plan_questions.h"
#include "cli/plan_report.h"
#include "cli/plan_request.h"
#include "cli/processes.h"
#include "plan/capabilities.h"
#include "search/share.h"

namespace rehearse::cli {

namespace {

int compare_two(const Options& options) {
  const std::vector<std::string> paths = options.plan_paths();
  if (paths.size() != 2) {
    throw UsageError(
        fmt::format("plan: --compare takes two plan files, and was given {}", paths.size()));
  }
  std::array<Plan, 2> plans;
  std::array<std::optional<Calibration>, 2> calibrations;
  for (size_t i = 0; i < 2; ++i) {
    plans[i] = load_plan(paths[i]);
    require_simulate(plans[i]);
    calibrations[i] = find_calibration(options, plans[i]);
    use_measured_links(plans[i], calibrations[i]);
  }
  const bool one_calibration =
      calibration_path(options, plans[0]) == calibration_path(options, plans[1]);
  options.print(two_plans_report({.plan = plans[0], .calibration = calibrations[0]},
                                 {.plan = plans[1], .calibration = calibrations[1]},
                                 one_calibration));
  return 0;
}

// Where --out wants the shown layouts.
std::vector<std::string> plan_files(const Options& options, size_t show) {
  std::vector<std::string> written;
  if (!options.has("out")) return written;
  constexpr size_t kMostFiles = 400;
  for (size_t i = 0; i < std::min(show, kMostFiles); ++i) {
    written.push_back(
        (std::filesystem::path(options.text("out")) / fmt::format("{}.yaml", i + 1)).string());
  }
  return written;
}

// Throws InputError saying what is missing where nothing can be answered.
void require_answer(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& how,
                    const SearchResult& result) {
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
  if (result.fits + result.tight == 0) {
    throw InputError(
        nothing_fits(base,
                     result,
                     memory_ways_text(ways_to_need_less(
                         base, calibration, result.smallest->candidate, how.imbalance))));
  }
  if (result.best.empty() && result.too_long > 0) {
    throw InputError(fmt::format(
        "{} layouts fit; of the {} that the formulas put first every rank would have to be "
        "simulated, since they do not fold: ask for another ep, etp or tp",
        result.fits + result.tight,
        result.too_long));
  }
}

void drop_what_takes_longer(const Plan& base, double days, SearchResult& result) {
  std::erase_if(result.best, [&](const Scored& s) {
    return *figures_of(base, s.screened.candidate, s.step).days > days;
  });
  if (!result.best.empty()) return;
  std::string fastest;
  if (result.fastest) {
    const Candidate& c = result.fastest->candidate;
    const double takes = *figures_of(base, c, result.fastest->estimate.step).days;
    fastest = fmt::format(": the fastest, {} on {} GPUs, takes {:.1f} days, {:.1f} too long",
                          to_string(c),
                          c.gpus,
                          takes,
                          takes - days);
  }
  throw InputError(fmt::format("no layout takes {} days or less{}", days, fastest));
}

void put_question(Report& r,
                  const Plan& base,
                  const SearchSpace& asked_space,
                  const SearchSpace& space) {
  r.say(fmt::format("{} on {}: batch {}, sequence {}, {}\n",
                    base.model.name,
                    base.cluster.name,
                    fmt::join(space.batches, ", "),
                    fmt::join(space.sequences, ", "),
                    kPrecisions[space.precisions.front()]));
  std::vector<Value> defaults;
  for (const std::string& line : defaults_of(asked_space, space)) {
    r.say("  " + line + "\n");
    defaults.emplace_back(line);
  }
  r.put("defaults", std::move(defaults));
}

void put_illegal(Report& r, const Plan& base, const SearchSpace& space) {
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

// What a page draws: all that were simulated, the first with their timelines.
Report page_of(const Plan& base,
               const std::optional<Calibration>& calibration,
               const SearchResult& result,
               const std::string& further,
               size_t show) {
  Report page;
  put_counts(page, result);
  put_layouts(page, base, result, further, result.best.size());
  put_pareto(page, base, result);
  page.put("device_memory_bytes", base.cluster.memory);
  put_cell_kinds(page);
  constexpr size_t kMostTimelines = 20;
  for (size_t i = 0; i < std::min({show, kMostTimelines, result.best.size()}); ++i) {
    page.item("timelines") =
        cells_of(plan_of(base, result.best[i].screened.candidate), calibration);
  }
  return page;
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
           "all.csv\n"
           "  rehearse plan --compare a.yaml b.yaml\n"
           "  mpirun -n 4 rehearse plan plan.yaml --journal search.jsonl\n",
       .plan = PlanArgument::kNoneOrSeveral});
  options.value("model", "MODEL", "a model file, or one that comes with rehearse (deepseek-v3)")
      .value("cluster", "CLUSTER", "a topology file, or one that comes with rehearse (h800-2048)")
      .value("gpus", "N", "devices to use: N, N,M or A..B (all of the cluster's)")
      .value("batch", "N", "sequences per step, of all GPUs together")
      .value("sequence", "N", "tokens per sequence (4096)")
      .value("precision", "NAME", "bf16 or fp8 (bf16)")
      .value("tokens", "N", "of the whole training, such as 14.8T, for GPU-hours and days")
      .value("days", "N", "leave out what takes longer (needs --tokens)")
      .value("usd-per-gpu-hour", "X", "price, for the cost of the whole training")
      .value("rank-by", "WHAT", "time; cost: GPU-hours; gpus: the fewest that meet --days", "time")
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
      .value("rank-order", "NAMES", std::string(kRankOrders.list()))
      .value("dispatcher", "NAMES", std::string(kDispatchers.list()))
      .value("communication-sms", "N", "SMs that communication kernels hold")
      .value("calibration", "FILE", "calibration or device file; none: flops and bytes alone")
      .value("imbalance", "X", "rows of the fullest rank's experts over the mean, for memory", "1")
      .output(
          "journal",
          "keep there what is simulated: the same command goes on from it, if it was interrupted")
      .value(
          "largest",
          "WHAT",
          "first find the largest sequence (tokens), layers or experts that fit, and go on with it")
      .values(
          "phase",
          "BATCHxSEQUENCE",
          "another phase of the training, such as 3072x4096 or 15360x32768: whether the first\n"
          "layout is legal there and fits, and the best there otherwise (a plan's budget.phases "
          "too)")
      .flag("compare", "instead: two plan files, one explained against the other part by part")
      .output("page", "write the answer as a page for a browser, complete in itself")
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
  if (options.has("compare")) return compare_two(options);
  const Stopwatch watch;
  Processes processes;
  Plan base = base_of(options);
  const auto show = static_cast<size_t>(options.integer("show", {.min = 1, .max = 1'000'000}));
  const std::vector<std::string> written = plan_files(options, show);
  options.check_outputs(written);
  const SearchSpace asked_space = space_of(options, base);
  SearchSpace space = filled(asked_space, base);
  if (!space.sequences.empty()) base.training.sequence_length = space.sequences.front();
  base.training.precision = space.precisions.front();
  const auto calibration = find_calibration(options, base);
  use_measured_links(base, calibration);
  std::string further = asked(options);
  const std::vector<PhaseAsked> phases = phases_of(options, base);
  const std::optional<double> measured = measured_of(options);
  const std::optional<double> days = days_of(options, base);
  std::optional<Candidate> present;
  if (options.has("present")) present = present_of(options.text("present"), base, space);

  SearchOptions how;
  how.objective = objective_of(options);
  how.simulations = options.integer("simulate", {.min = 1, .max = 1'000'000});
  how.shown = static_cast<int64_t>(show);
  how.imbalance = options.number("imbalance", 0.999999, 1000);
  how.threads = options.has("threads")
                    ? static_cast<int32_t>(options.integer("threads", {.min = 1, .max = 1024}))
                    : static_cast<int32_t>(std::max<int64_t>(1, host_cores() / processes.here()));
  how.team = processes.team();
  if (days) how.most_seconds_per_token = *days * 86400 / *base.training.tokens;
  if (how.objective == Objective::kGpus && !days) {
    throw UsageError(
        "plan: --rank-by gpus needs --days, and --tokens: how many GPUs for a deadline");
  }
  if (options.has("judge-screen")) {
    const int64_t layouts = options.integer("judge-screen", {.min = 2, .max = 1'000'000});
    options.print(
        screen_error_report(base, judge_screen(base, calibration, space, layouts, how.threads)));
    return 0;
  }
  std::optional<std::pair<Grown, Largest>> grown;
  if (options.has("largest")) {
    const Grown what = grown_of(options);
    if (what != Grown::kSequence) {
      options.refuse({"out"}, "writes plans that name a model's file: --largest finds one without");
    }
    grown = {what, largest(base, calibration, asked_space, space, what, how)};
    // No file is of that model: what makes a row again begins with one.
    if (what != Grown::kSequence) {
      further = fmt::format("--model '{} with {} {}, as a file' --cluster {}",
                            base.model.name,
                            grown->second.value,
                            kGrown[what],
                            base.files.at(2));
    }
  }
  std::optional<Journal> journal;
  if (options.has("journal")) {
    if (processes.first()) {
      journal.emplace(options.text("journal"),
                      question_of(base, calibration_path(options, base), how.objective));
      how.journal = &*journal;
    }
  }
  catch_interrupts();
  how.stop = [] { return interrupted().has_value(); };
  std::optional<Progress> screening, simulating;
  how.progress = [&](const SearchOptions::Done& done) {
    const bool quiet = options.quiet() || !processes.first();
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
  processes.begin();
  SearchResult result;
  try {
    result = screen(base, calibration, space, how);
    if (result.fits + result.tight > 0) simulate_best(base, calibration, how, result);
  } catch (const std::exception& e) {
    // All processes are about to be ended, before anybody else could say why.
    if (how.team.size > 1) std::cerr << e.what() << "\n";
    throw;
  }
  processes.end();
  screening.reset();
  simulating.reset();
  // A signal may come later too: what is not yet worked out is then left out.
  const auto code = [] {
    constexpr int kSignalled = 128;
    return interrupted() ? kSignalled + *interrupted() : 0;
  };
  const auto ended = [&] { return result.stopped || interrupted(); };
  if (!processes.first()) return code();
  if (!result.stopped) require_answer(base, calibration, space, how, result);
  if (days) drop_what_takes_longer(base, *days, result);
  how.team = {};
  how.journal = nullptr;
  how.progress = {};
  how.stop = {};

  Report r;
  put_question(r, base, asked_space, space);
  if (grown) put_largest(r, base, grown->first, grown->second);
  put_unfinished(r, result, journal ? options.text("journal") : "");
  put_counts(r, result);
  if (result.best.empty()) {
    options.print(r);
    return code();
  }
  if (present) put_present(r, base, calibration, *present, result, how.objective, measured);
  put_layouts(r, base, result, further, show);
  const Candidate& best = result.best.front().screened.candidate;
  const Plan best_plan = plan_of(base, best);
  r.say(fmt::format(
      "\nthe first: {}\n{}\n", to_string(best), memory_text(base, result.best.front().screened)));
  r.say(fmt::format("again:    {}\n", command_of(base, best, further)));
  std::vector<Sensitivity> slopes;
  std::vector<WhatIf> others;
  if (base.cluster.of_gpus() && !ended()) {
    put_megatron(r, base, calibration, result.best.front());
    slopes = sensitivities(best_plan, calibration);
    others = what_ifs(best_plan, calibration);
    put_sensitivities(r, slopes, others, result.best.front().step);
  }
  put_memory_ways(r, ways_to_need_less(base, calibration, best, how.imbalance));
  put_nearest(r, base, result);
  // Each is a search of its own.
  if (!ended()) {
    put_phases(r, base, in_phases(base, calibration, asked_space, best, phases, how));
  }
  put_grounds(r, best_plan, calibration, how.imbalance);
  put_pareto(r, base, result);
  if (options.has("illegal") && !ended()) put_illegal(r, base, space);
  if (options.has("csv")) write_file(options.text("csv"), print_csv(base, result));
  const size_t plans = std::min(written.size(), result.best.size());
  for (size_t i = 0; i < plans; ++i) {
    write_file(written[i], print_plan(plan_of(base, result.best[i].screened.candidate)));
  }
  if (!written.empty()) {
    r.say(fmt::format("\nwrote {} plans to {}\n", plans, options.text("out")));
  }
  if (options.has("page")) {
    Report page = page_of(base, calibration, result, further, show);
    if (!slopes.empty()) put_sensitivities(page, slopes, others, result.best.front().step);
    put_grounds(page, best_plan, calibration, how.imbalance);
    write_file(options.text("page"),
               print_page("plan",
                          fmt::format("{} on {}", base.model.name, base.cluster.name),
                          fmt::format("Layouts for a batch of {} sequences of {} tokens, {}",
                                      best.batch,
                                      best.sequence,
                                      kPrecisions[best.precision]),
                          page,
                          print_text(r)));
  }
  r.put("wall_s", watch.seconds());
  options.print(r);
  return code();
}

}  // namespace rehearse::cli
