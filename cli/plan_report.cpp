#include "cli/plan_report.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cost/layer.h"
#include "plan/program/schedule.h"
#include "search/sensitivity.h"

namespace rehearse::cli {
namespace {

constexpr double kTrillion = 1e12;

std::string_view short_name(ScheduleKind kind) {
  return kind == ScheduleKind::kInterleaved ? "i1f1b" : name_of(kind);
}

// "PP16 EP64 TP2 dualpipe 120x1 Z1": DP is what is left of the GPUs.
std::string short_text(const Candidate& c) {
  const Layout& l = c.layout;
  std::string text = fmt::format("PP{}", l.pp);
  const auto add = [&](const char* name, int64_t n) {
    if (n > 1) text += fmt::format(" {}{}", name, n);
  };
  add("EP", l.ep);
  add("ETP", l.etp);
  add("TP", l.tp);
  add("CP", l.cp);
  text += fmt::format(" {}", short_name(l.schedule));
  if (l.way() == Way::kRoundAgain) text += fmt::format("x{}", l.chunks);
  text += fmt::format(" {}x{} Z{}", c.micro_batches, c.micro_batch_size, l.zero_stage);
  return l.rank_order == RankOrder::kDataFirst ? text : text + " pp-dp";
}

std::string in_thousands(double x) {
  return x < 9995      ? fmt::format("{:.0f}", x)
         : x < 9.995e6 ? fmt::format("{:.0f}k", x / 1e3)
                       : fmt::format("{:.0f}M", x / 1e6);
}

double gigabytes(Bytes b) {
  return static_cast<double>(b.count()) * 1e-9;
}

Report layout_object(const Candidate& c) {
  const Layout& l = c.layout;
  Report r;
  r.put("pp", l.pp);
  r.put("chunks", l.way() == Way::kRoundAgain ? l.chunks : int64_t{1});
  r.put("ep", l.ep);
  r.put("etp", l.etp);
  r.put("dp", l.dp);
  r.put("tp", l.tp);
  r.put("cp", l.cp);
  r.put("schedule", name_of(l.schedule));
  r.put("microbatches", c.micro_batches);
  r.put("micro_batch_size", c.micro_batch_size);
  r.put("zero", l.zero_stage);
  r.put("recompute", recompute_text(c.recompute));
  r.put("rank_order", kRankOrders[l.rank_order]);
  r.put("dispatcher", kDispatchers[l.dispatcher]);
  r.put("communication_sms", c.communication_sms);
  r.put("layers_per_stage",
        std::vector<Value>(l.layers_per_stage.begin(), l.layers_per_stage.end()));
  return r;
}

}  // namespace

std::string stages_text(const Layout& l) {
  // Runs of equal stages.
  std::string text;
  for (size_t i = 0; i < l.layers_per_stage.size();) {
    size_t end = i;
    while (end < l.layers_per_stage.size() && l.layers_per_stage[end] == l.layers_per_stage[i])
      ++end;
    text += fmt::format("{}{}{}",
                        text.empty() ? "" : ",",
                        l.layers_per_stage[i],
                        end - i > 1 ? fmt::format("x{}", end - i) : "");
    i = end;
  }
  return text;
}

PlanFigures figures_of(const Plan& base, const Candidate& c, double step) {
  const double tokens = static_cast<double>(c.batch) * static_cast<double>(c.sequence);
  const auto gpus = static_cast<double>(c.gpus);
  const double flops =
      training_flops_per_token(base.model.architecture, c.sequence, true).count() * tokens;
  PlanFigures f;
  f.tokens_per_second_per_gpu = tokens / step / gpus;
  f.mfu = flops / step / gpus / base.cluster.peak.value();
  f.gpu_hours_per_trillion = kTrillion / tokens * step * gpus / 3600;
  if (base.training.tokens) {
    f.gpu_hours = f.gpu_hours_per_trillion * *base.training.tokens / kTrillion;
    f.days = *f.gpu_hours / gpus / 24;
  }
  return f;
}

std::string command_of(const Plan& base, const Candidate& c, const std::string& further) {
  const Layout& l = c.layout;
  std::string text = fmt::format(
      "rehearse plan {} --gpus {} --batch {} --sequence {} --precision {} --pp {} --ep {} --etp {} "
      "--tp {} --cp {} --schedule {} --micro-batch-size {} --zero {} --recompute {} --stages {}",
      further,
      c.gpus,
      c.batch,
      c.sequence,
      kPrecisions[c.precision],
      l.pp,
      l.ep,
      l.etp,
      l.tp,
      l.cp,
      name_of(l.schedule),
      c.micro_batch_size,
      l.zero_stage,
      recompute_text(c.recompute),
      fmt::join(l.layers_per_stage, ","));
  if (l.way() == Way::kRoundAgain) text += fmt::format(" --chunks {}", l.chunks);
  text += fmt::format(" --rank-order {}", kRankOrders[l.rank_order]);
  if (l.dispatcher != base.layout.dispatcher) {
    text += fmt::format(" --dispatcher {}", kDispatchers[l.dispatcher]);
  }
  if (c.communication_sms != base.cluster.communication_sms) {
    text += fmt::format(" --communication-sms {}", c.communication_sms);
  }
  return text;
}

std::string launch_line(const Plan& base, const Candidate& c) {
  const int64_t per_node = std::min(c.gpus, base.cluster.devices_per_node);
  const int64_t nodes = (c.gpus + per_node - 1) / per_node;
  return fmt::format(
      "srun --nodes {} --ntasks-per-node 1 torchrun --nnodes {} --nproc-per-node {} "
      "--rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR:$MASTER_PORT pretrain_gpt.py",
      nodes,
      nodes,
      per_node);
}

size_t tied(const SearchResult& result) {
  size_t count = 0;
  while (count < result.best.size()) {
    const Scored& best = result.best.front();
    const Scored& s = result.best[count];
    const auto at = [&](const Scored& of, double step) {
      return score_of(of.screened.candidate, step, result.objective);
    };
    if (at(s, s.low) > at(best, best.high)) break;
    ++count;
  }
  return count;
}

std::string memory_text(const Plan& base, const Screened& screened) {
  const Plan plan = plan_of(base, screened.candidate);
  const RankMemory m = rank_memory(plan, screened.estimate.fullest);
  const RankSchedule schedule =
      build_schedule(plan.layout, plan.training.micro_batches, screened.estimate.fullest);
  std::vector<std::string> held;
  for (size_t d = 0; d < m.peak.kept.size(); ++d) {
    if (m.peak.kept[d] + m.peak.deferred[d] == 0) continue;
    const int64_t stage = plan.layout.stage_of(screened.estimate.fullest, static_cast<int64_t>(d));
    held.push_back(fmt::format(
        "{} of stage {}{}",
        m.peak.kept[d],
        stage,
        m.peak.deferred[d] > 0 ? fmt::format(" and {} that wait for their W", m.peak.deferred[d])
                               : ""));
  }
  std::string at;
  if (m.peak.cell >= 0) {
    at = fmt::format(
        " in cell {} ({})", m.peak.cell, to_string(schedule[static_cast<size_t>(m.peak.cell)]));
  }
  return fmt::format(
      "rank {} of the pipeline needs {:.1f} GB{}: weights {:.1f}, gradients {:.1f}, optimizer "
      "{:.1f}, "
      "activations {:.1f} (micro-batches: {}), passing {:.1f}, set aside {:.1f}",
      screened.estimate.fullest,
      gigabytes(m.need()),
      at,
      gigabytes(m.parameters),
      gigabytes(m.gradients),
      gigabytes(m.optimizer),
      gigabytes(m.activations),
      fmt::join(held, ", "),
      gigabytes(m.passing),
      gigabytes(m.reserve));
}

void put_unfinished(Report& r, const SearchResult& result, const std::string& journal) {
  r.put("finished", !result.stopped);
  if (!result.stopped) return;
  r.put("pieces_screened", result.pieces);
  r.put("pieces", result.of_pieces);
  r.say(fmt::format(
      "UNFINISHED: interrupted with {} of {} parts of the space screened and {} layouts "
      "simulated; the best by then{}\n",
      result.pieces,
      result.of_pieces,
      result.simulated,
      journal.empty() ? "" : fmt::format(" (the same command goes on from {})", journal)));
}

void put_counts(Report& r, const SearchResult& result) {
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
}

void put_layouts(Report& r,
                 const Plan& base,
                 const SearchResult& result,
                 const std::string& further,
                 size_t shown) {
  const bool several = [&] {
    for (const Scored& s : result.best) {
      const Candidate& a = s.screened.candidate;
      const Candidate& b = result.best.front().screened.candidate;
      if (a.gpus != b.gpus || a.batch != b.batch || a.sequence != b.sequence) return true;
    }
    return false;
  }();
  r.say(fmt::format("{:>2} {:<36} {:>6} {:>11} {:>5} {:>4} {:>4} {:>4} {:>7} {:>6} {:>5}\n",
                    "#",
                    "layout",
                    "step s",
                    "90%",
                    "tok/s",
                    "MFU%",
                    "exp%",
                    "bub%",
                    "GB@rank",
                    "h/Ttok",
                    "days"));
  const size_t ties = tied(result);
  for (size_t i = 0; i < std::min(shown, result.best.size()); ++i) {
    const Scored& s = result.best[i];
    const Candidate& c = s.screened.candidate;
    const PlanFigures f = figures_of(base, c, s.step);
    const auto seconds = [](double x) {
      return x < 9.995   ? fmt::format("{:.2f}", x)
             : x < 999.5 ? fmt::format("{:.1f}", x)
                         : fmt::format("{:.0f}", x);
    };
    r.say(fmt::format(
        "{:>2} {:<36} {:>6} {:>11} {:>5.0f} {:>4.0f} {:>4.0f} {:>4.0f} {:>7} {:>6} {:>5}\n",
        i + 1,
        short_text(c),
        s.step < 99.95 ? fmt::format("{:.2f}", s.step) : seconds(s.step),
        s.low < s.high ? fmt::format("{}-{}", seconds(s.low), seconds(s.high)) : "-",
        f.tokens_per_second_per_gpu,
        100 * f.mfu,
        100 * (s.exposed + s.exposed_shared),
        100 * s.bubble,
        fmt::format("{:.0f}@{}", gigabytes(s.memory.need()), s.fullest),
        in_thousands(f.gpu_hours_per_trillion),
        f.days ? fmt::format("{:.1f}", *f.days) : "-"));
    std::string note = fmt::format("{}; {}", kFits[s.fit], s.limited_by);
    if (several) {
      note = fmt::format("{} GPUs, batch {} x {}; {}", c.gpus, c.batch, c.sequence, note);
    }
    note += fmt::format("; recompute {}", recompute_text(c.recompute));
    if (base.budget.usd_per_gpu_hour && f.gpu_hours) {
      note += fmt::format("; {:.3g}M USD", *base.budget.usd_per_gpu_hour * *f.gpu_hours * 1e-6);
    }
    if (!s.runnable) note += "; simulate only";
    r.say(fmt::format("   {}\n", note));
    Report& of = r.item("best");
    of.put("rank", static_cast<int64_t>(i + 1));
    of.put_object("layout", layout_object(c));
    of.put("gpus", c.gpus);
    of.put("batch", c.batch);
    of.put("sequence", c.sequence);
    of.put("precision", kPrecisions[c.precision]);
    of.put("runnable", s.runnable);
    of.put("not_runnable_because", s.runnable ? Value() : Value(s.not_runnable));
    of.put("step_time_s", s.step);
    of.put("interval_s", {s.low, s.high});
    of.put("estimated_s", s.screened.estimate.step);
    of.put("bound_s", s.screened.estimate.bound);
    of.put("tied", i < ties);
    of.put("tokens_per_s_per_gpu", f.tokens_per_second_per_gpu);
    of.put("mfu_causal", f.mfu);
    of.put("exposed_comm_fraction", s.exposed);
    of.put("exposed_shared_fraction", s.exposed_shared);
    of.put("bubble_fraction", s.bubble);
    of.put("optimizer_fraction", s.optimizer);
    of.put("memory_bytes", s.memory.need());
    of.put("memory_rank", s.fullest);
    of.put("memory_verdict", kFits[s.fit]);
    Report memory;
    memory.put("parameters", s.memory.parameters);
    memory.put("gradients", s.memory.gradients);
    memory.put("optimizer", s.memory.optimizer);
    memory.put("activations", s.memory.activations);
    memory.put("passing", s.memory.passing);
    memory.put("reserve", s.memory.reserve);
    of.put_object("memory_by_kind_bytes", std::move(memory));
    of.put("gpu_hours_per_trillion", f.gpu_hours_per_trillion);
    of.put("gpu_hours", f.gpu_hours ? Value(*f.gpu_hours) : Value());
    of.put("days", f.days ? Value(*f.days) : Value());
    const auto& price = base.budget.usd_per_gpu_hour;
    of.put("cost_usd", price && f.gpu_hours ? Value(*price * *f.gpu_hours) : Value());
    of.put("extrapolated", s.extrapolated);
    of.put("limited_by", s.limited_by);
    of.put("command", command_of(base, c, further));
  }
  const size_t rows = std::min(shown, result.best.size());
  if (ties > 1) {
    r.say(fmt::format(
        "\n1 to {}{} are tied: their intervals overlap the first's.\n",
        std::min(ties, rows),
        ties > rows ? fmt::format(" (and {} more that were simulated)", ties - rows) : ""));
  }
  r.put("tied", static_cast<int64_t>(ties));
  r.say(
      "tok/s: per GPU; MFU: layers and head, causal attention, of the BF16 peak; exp, bub: "
      "exposed\n"
      "communication and bubble; GB@rank: the fullest pipeline rank; h/Ttok: GPU-hours per 1e12 "
      "tokens;\nZ: ZeRO stage; 120x1: micro-batches x sequences; DP: what the GPUs leave.\n");
  if (std::ranges::any_of(result.best, [](const Scored& b) {
        return b.screened.candidate.layout.rank_order == RankOrder::kPipelineFirst;
      })) {
    r.say(
        "pp-dp: a pipeline's ranks are neighbours (rank_order: tp-cp-ep-pp-dp), not a stage's.\n");
  }
}

void put_pareto(Report& r, const Plan& base, const SearchResult& result) {
  if (result.pareto.empty()) return;
  for (const Screened& s : result.pareto) {
    Report& of = r.item("pareto");
    of.put_object("layout", layout_object(s.candidate));
    of.put("gpus", s.candidate.gpus);
    of.put("memory_bytes", s.estimate.need);
    of.put("estimated_s", s.estimate.step);
    of.put("fits", fit_of(s.estimate.need, base.cluster.memory) != Fit::kShort);
  }
  // Drawn: memory to the right, time upwards; | is what the devices have.
  constexpr size_t kWide = 72, kHigh = 12;
  const double have = gigabytes(base.cluster.memory);
  const double right = 2 * have;
  double least = result.pareto.back().score;
  double most = least;
  std::vector<const Screened*> drawn;
  for (const Screened& s : result.pareto) {
    if (gigabytes(s.estimate.need) > right || s.score > 3 * least) continue;
    drawn.push_back(&s);
    most = std::max(most, s.score);
  }
  if (drawn.empty() || most <= least) return;
  std::vector<std::string> canvas(kHigh, std::string(kWide, ' '));
  const auto column = [&](double gb) {
    return std::min(kWide - 1, static_cast<size_t>(gb / right * (kWide - 1)));
  };
  for (std::string& line : canvas) line[column(have)] = '|';
  for (const Screened* s : drawn) {
    const double up = (s->score - least) / (most - least);
    canvas[kHigh - 1 - static_cast<size_t>(std::lround(up * (kHigh - 1)))]
          [column(gigabytes(s->estimate.need))] = '*';
  }
  r.say("\nmemory against time (*: no layout needs less and is faster; |: what a device has)\n");
  const Candidate& any = drawn.front()->candidate;
  const double tokens = static_cast<double>(any.batch) * static_cast<double>(any.sequence);
  for (size_t i = 0; i < kHigh; ++i) {
    const double score = most - (most - least) * static_cast<double>(i) / (kHigh - 1);
    const std::string label =
        i == 0 || i + 1 == kHigh || i == kHigh / 2 ? fmt::format("{:.3g}", score * tokens) : "";
    while (!canvas[i].empty() && canvas[i].back() == ' ') canvas[i].pop_back();
    r.say(fmt::format("  {:>8} {}\n", label, canvas[i]));
  }
  r.say(fmt::format("  {:>8} 0{:>{}} GB{:>{}.0f} GB\n",
                    "",
                    fmt::format("{:.0f}", have),
                    kWide / 2 - 2,
                    right,
                    kWide / 2 - 3));
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
  const Scored s =
      score(base, calibration, screened_alone(base, calibration, present, objective), objective);
  const Scored& best = result.best.front();
  const std::vector<int64_t>& stages = present.layout.layers_per_stage;
  const bool uneven = std::ranges::adjacent_find(stages, std::not_equal_to()) != stages.end();
  r.say(fmt::format("present: {}{}\n  {:.2f} s (90%: {:.2f} to {:.2f}), {:.0f} GB: {}; {}\n",
                    to_string(present),
                    uneven ? ", stages of " + stages_text(present.layout) : "",
                    s.step,
                    s.low,
                    s.high,
                    static_cast<double>(s.memory.need().count()) * 1e-9,
                    kFits[s.fit],
                    s.limited_by));
  Report& of = r.section("present");
  of.put("layout_text", to_string(present));
  of.put_object("layout", layout_object(present));
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
                       const std::vector<Sensitivity>& slopes,
                       const std::vector<WhatIf>& others,
                       double step) {
  Report::Table table{
      .columns = {{"knob", "knob"}, {"slope", "dlog step / dlog knob"}, {"note", "asked how"}}};
  for (const Sensitivity& s : slopes) {
    table.row(
        {s.knob, s.slope ? Value(fmt::format("{:+.3f}", *s.slope), *s.slope) : Value(), s.note});
  }
  r.say("\n");
  r.table("sensitivities", std::move(table));
  for (const WhatIf& w : others) {
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
std::string nothing_fits(const Plan& base, const SearchResult& result, const std::string& ways) {
  const Screened& s = *result.smallest;
  const double have = static_cast<double>(base.cluster.memory.count()) * 1e-9;
  const double need = static_cast<double>(s.estimate.need.count()) * 1e-9;
  return fmt::format(
      "none of {} legal layouts fits: the smallest, {}, needs {:.1f} GB of {:.1f} GB, {:.1f} GB "
      "too "
      "much: {}. Use more GPUs, a smaller model or a shorter sequence{}",
      result.legal,
      to_string(s.candidate),
      need,
      have,
      need - have,
      memory_text(base, s),
      ways.empty() ? "" : "; of this layout these would need less:\n" + ways);
}

std::string print_csv(const Plan& base, const SearchResult& result) {
  std::string out =
      "rank,gpus,batch,sequence,precision,pp,chunks,ep,etp,dp,tp,cp,schedule,micro_batches,"
      "micro_batch_size,zero,recompute,layers_per_stage,step_s,low_s,high_s,estimated_s,bound_s,"
      "tokens_per_s_per_gpu,mfu_causal,exposed,bubble,memory_bytes,memory_rank,verdict,"
      "gpu_hours_per_trillion,runnable,limited_by\n";
  for (size_t i = 0; i < result.best.size(); ++i) {
    const Scored& s = result.best[i];
    const Candidate& c = s.screened.candidate;
    const Layout& l = c.layout;
    const PlanFigures f = figures_of(base, c, s.step);
    out += fmt::format(
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},"
        "{:.6g},{:.4f},{:.4f},{:.4f},{},{},{},{:.6g},{},\"{}\"\n",
        i + 1,
        c.gpus,
        c.batch,
        c.sequence,
        kPrecisions[c.precision],
        l.pp,
        l.way() == Way::kRoundAgain ? l.chunks : 1,
        l.ep,
        l.etp,
        l.dp,
        l.tp,
        l.cp,
        name_of(l.schedule),
        c.micro_batches,
        c.micro_batch_size,
        l.zero_stage,
        recompute_text(c.recompute),
        fmt::format("\"{}\"", stages_text(l)),
        s.step,
        s.low,
        s.high,
        s.screened.estimate.step,
        s.screened.estimate.bound,
        f.tokens_per_second_per_gpu,
        f.mfu,
        s.exposed + s.exposed_shared,
        s.bubble,
        s.memory.need().count(),
        s.fullest,
        kFits[s.fit],
        f.gpu_hours_per_trillion,
        s.runnable ? "yes" : "no",
        s.limited_by);
  }
  return out;
}

}  // namespace rehearse::cli
