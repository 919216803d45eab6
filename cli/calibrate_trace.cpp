#include "cli/calibrate_trace.h"

#include <cmath>
#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "base/statistics.h"
#include "cli/report.h"
#include "sim/import/judge.h"
#include "sim/price/gpu_costs.h"

namespace rehearse::cli {
namespace {

std::set<OpName> read_ops(const std::string& text) {
  std::set<OpName> ops;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string name = text.substr(at, end - at);
    const auto op = op_named(name);
    if (!op) {
      throw UsageError(
          fmt::format("calibrate: --only {}: expected ops such as attn.F,dispatch.F", text));
    }
    ops.insert(*op);
    at = end + 1;
  }
  return ops;
}

Profile read_profile(const Options& options) {
  const std::string path = options.text("from-trace");
  if (!options.has("map")) {
    throw UsageError("calibrate: --from-trace needs --map, which says what the kernels are");
  }
  const ProfileMap map = load_profile_map(options.text("map"));
  std::error_code error;
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  constexpr int64_t kShown = 100'000'000;
  Progress progress({.label = "read trace",
                     .total = std::max<int64_t>(1, error ? 1 : size),
                     .quiet = options.quiet() || size < kShown});
  Profile p{.path = path};
  p.trace = read_trace(
      path,
      [&](int64_t done) { progress.update(std::min(done, size)); },
      [&](std::string_view annotation) { return names_annotation(map, annotation); });
  p.ops = profile_ops(p.trace, map, path);
  if (p.trace.orphans > 0) {
    std::cerr << fmt::format(
        "warning: {}: {} of {} device events have no launch in the trace: not used where "
        "annotations name the ops\n",
        path,
        p.trace.orphans,
        p.trace.events.size());
  }
  return p;
}

std::optional<GpuCalibration> published_of(const Options& options) {
  if (!options.has("published")) return std::nullopt;
  return load_gpu_calibration(options.text("published"));
}

Report::Table table_of(const std::vector<JudgedOp>& judged) {
  Report::Table table{.columns = {{"op", "op"},
                                  {"predicted_s", "predicted"},
                                  {"measured_s", "measured"},
                                  {"error", "error"},
                                  {"waiting_s", "waiting, measured"}}};
  const auto ms = [](Duration d) {
    // To the nearest microsecond, halves up.
    const int64_t us = (d.picoseconds() + 500'000) / 1'000'000;
    return Value(fmt::format("{:.3f} ms", static_cast<double>(us) * 1e-3), d.seconds());
  };
  for (const JudgedOp& j : judged) {
    table.row(
        {to_string(j.op), ms(j.predicted), ms(j.measured), signed_share(j.error()), ms(j.waiting)});
  }
  return table;
}

Report left_out_report(const Profile& profile, const std::vector<LeftOut>& all) {
  Report r;
  const double data = profile.share_of(WorkKind::kData);
  const double waiting = profile.share_of(WorkKind::kWaiting);
  r.say(fmt::format("measured: {} long, data {:.1f}% and waiting {:.1f}% of it\n\n",
                    to_string(profile.length()),
                    100 * data,
                    100 * waiting));
  double worst = 0;
  for (const LeftOut& l : all) {
    const double error = l.pair.step / profile.length() - 1;
    for (const JudgedOp& j : l.whole) worst = std::max(worst, std::abs(j.error()));
    Report& of = r.item("repetitions");
    of.say(fmt::format(
        "repetition {} left out: pair {} ({}), data {:.1f}%, waiting {:.1f}%, exposed {:.1f}%\n",
        l.repetition,
        to_string(l.pair.step),
        percent(error),
        100 * l.pair.data_share,
        100 * l.pair.waiting_share,
        100 * l.pair.exposed));
    of.put("left_out", l.repetition);
    of.put("pair_predicted_s", l.pair.step);
    of.put("pair_measured_s", profile.length());
    of.put("pair_error", error);
    of.put("data_share_predicted", l.pair.data_share);
    of.put("data_share_measured", data);
    of.put("waiting_share_predicted", l.pair.waiting_share);
    of.put("waiting_share_measured", waiting);
    of.put("exposed_comm_predicted", l.pair.exposed);
    of.table("ops", table_of(l.whole));
    of.say("  the one left out alone:\n");
    of.table("ops_of_the_one_left_out", table_of(l.left_out));
    of.say("\n");
  }
  r.say(fmt::format("worst op over the whole pair: {:.1f}%\n", 100 * worst));
  r.put("worst_op_error", worst);
  return r;
}

Report judged_report(const Profile& profile, const Plan& plan, const GpuCalibration& c) {
  Report r;
  const JudgedPair pair = judge_pair(plan, c);
  const double error = pair.step / profile.length() - 1;
  r.table("ops", table_of(judge_ops(profile, plan, c, profile.all_repetitions())));
  r.put("pair_predicted_s", pair.step);
  r.put("pair_measured_s", profile.length());
  r.put("pair_error", error);
  r.put("data_share_predicted", pair.data_share);
  r.put("data_share_measured", profile.share_of(WorkKind::kData));
  r.put("contention", GpuCosts(c, plan.cluster).contention());
  r.say(fmt::format("\npair {} (measured {}, {})\n",
                    to_string(pair.step),
                    to_string(profile.length()),
                    percent(error)));
  return r;
}

Report imported_report(const GpuCalibration& c, const Profile& profile, const std::string& path) {
  Report r;
  Report::Table table{
      .columns = {
          {"", "op"}, {"", "work"}, {"", "median"}, {"", "min"}, {"", "max"}, {"", "rate"}}};
  for (const GpuEntry& e : c.entries) {
    std::vector<double> times, rates;
    const bool flops = e.samples.front().flops.count() > 0;
    const bool work = flops || e.samples.front().bytes.count() > 0;
    for (const GpuEntry::Sample& s : e.samples) {
      times.push_back(s.time.seconds());
      rates.push_back((flops ? s.flops.count() : static_cast<double>(s.bytes.count())) /
                      s.time.seconds());
    }
    const auto [low, high] = std::minmax_element(times.begin(), times.end());
    std::string what(name_of(e.kind));
    if (e.m > 0) what += fmt::format(" {}x{}x{}x{}", e.groups, e.m, e.n, e.k);
    table.row({e.op ? to_string(*e.op) : std::string("any"),
               what,
               Duration::seconds(median(times)),
               Duration::seconds(*low),
               Duration::seconds(*high),
               !work   ? std::string("-")
               : flops ? to_string(FlopsPerSecond(median(rates)))
                       : to_string(BytesPerSecond(median(rates)))});
  }
  r.say(fmt::format("{}, {} device events, {} ops, {} repetitions\n\n",
                    c.device,
                    profile.trace.events.size(),
                    profile.ops.size(),
                    profile.repetitions()));
  r.put("device", c.device);
  r.put("entries", c.entries.size());
  r.put("repetitions", profile.repetitions());
  r.put("orphans", profile.trace.orphans);
  r.table("", std::move(table));
  r.put("file", path);
  r.say(fmt::format("\nwritten: {}\n", path));
  return r;
}

}  // namespace

void add_trace_options(Options& options) {
  options
      .value("from-trace",
             "FILE",
             "import a PyTorch profiler (Kineto) trace, plain or gzip, of the plan's pair")
      .value("map", "FILE", "which kernels are which ops and kinds of work (YAML)")
      .value(
          "published", "FILE", "a calibration of GPUs whose entries (published figures) are added")
      .value("only", "OPS", "import these ops alone, such as attn.F,dispatch.F")
      .value("leave-out", "N", "import without this repetition of every op, from 0")
      .flag("leave-each-out", "tell each repetition, and the pair, from the others; writes nothing")
      .value("judge", "FILE", "tell the trace's ops by this calibration instead; writes nothing");
}

int calibrate_from_trace(const Options& options) {
  if (options.plan_paths().size() != 1) {
    throw UsageError(
        "calibrate: --from-trace needs one plan that says what was profiled: model, EP, sequence");
  }
  const Plan plan = load_plan(options.plan_path());
  if (plan.layout.pp != 1) {
    throw InputError(plan.path + ": layout.pp: a profiled pair is of one pipeline rank; use pp: 1");
  }
  const bool writes = !options.has("judge") && !options.has("leave-each-out");
  const std::string out =
      options.has("out") ? options.text("out") : default_out(plan) + "/calibration.yaml";
  if (writes) {
    options.check_outputs(default_output(options, out));
  } else {
    options.refuse({"out"}, "is for imports; --judge and --leave-each-out write nothing");
  }
  const Profile profile = read_profile(options);
  if (options.has("leave-each-out")) {
    if (profile.repetitions() < 2) {
      throw InputError("--leave-each-out needs at least two repetitions in the trace");
    }
    options.print(left_out_report(profile, leave_each_out(profile, plan, published_of(options))));
    return 0;
  }
  if (options.has("judge")) {
    options.print(judged_report(profile, plan, load_gpu_calibration(options.text("judge"))));
    return 0;
  }
  ImportOptions import;
  if (options.has("only")) import.only = read_ops(options.text("only"));
  if (options.has("leave-out")) {
    const auto all = static_cast<int64_t>(profile.repetitions());
    int64_t out_of = 0;
    try {
      out_of = options.integer("leave-out", {.min = 0});
    } catch (const UsageError&) {
      throw UsageError(fmt::format("calibrate: --leave-out counts from 0, up to {}", all - 1));
    }
    import.leave_out = static_cast<size_t>(out_of);
  }
  const std::string source = std::filesystem::path(options.text("from-trace")).filename().string();
  GpuCalibration c = import_profile(profile.ops, profile.trace, plan, source, import);
  complete(c, plan, published_of(options));
  write_gpu_calibration(out, c);
  options.print(imported_report(c, profile, out));
  return 0;
}

}  // namespace rehearse::cli
