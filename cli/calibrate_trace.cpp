#include "cli/calibrate_trace.h"

#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <numeric>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "base/statistics.h"
#include "cli/results.h"
#include "plan/program/op_work.h"
#include "sim/exchange_speed.h"
#include "sim/import/profile.h"

namespace rehearse::cli {
namespace {

namespace po = boost::program_options;

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

struct Profile {
  Trace trace;
  std::vector<ProfiledOp> ops;
  // Whole, from the first op's begin to the last one's end.
  Duration length() const {
    Duration end;
    for (const ProfiledOp& op : ops) end = std::max(end, op.end);
    return end - ops.front().begin;
  }
  size_t repetitions() const {
    return static_cast<size_t>(std::count_if(
        ops.begin(), ops.end(), [&](const ProfiledOp& o) { return o.op == ops.front().op; }));
  }
};

Profile read_profile(const Options& options) {
  const std::string path = options.get<std::string>("from-trace");
  if (!options.has("map")) {
    throw UsageError("calibrate: --from-trace needs --map, which says what the kernels are");
  }
  const ProfileMap map = load_profile_map(options.get<std::string>("map"));
  std::error_code error;
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path, error));
  constexpr int64_t kShown = 100'000'000;
  Progress progress({.label = "read trace",
                     .total = std::max<int64_t>(1, error ? 1 : size),
                     .quiet = options.quiet() || size < kShown});
  Profile p;
  p.trace = read_trace(path, [&](int64_t done) { progress.update(std::min(done, size)); });
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

// Entries of a published file behind those of the profile.
void complete(const Options& options, const Plan& plan, GpuCalibration& c) {
  if (options.has("published")) {
    const GpuCalibration more = load_gpu_calibration(options.get<std::string>("published"));
    c.entries.insert(c.entries.end(), more.entries.begin(), more.entries.end());
  }
  set_demands(c, plan);
}

// Predicted and measured span of one kind of op, without what waited for other ranks.
struct Judged {
  OpName op;
  double predicted = 0, measured = 0;  // seconds, mean over the repetitions judged
  double waiting = 0;                  // measured
  double error() const { return predicted / measured - 1; }
};

std::optional<Calibration> with_calibration(const GpuCalibration& calibration) {
  return Calibration{.gpu = std::make_shared<const GpuCalibration>(calibration)};
}

// Predictions for repetitions `judged` of the profile: computation at the rows that they had,
// all-to-alls alone on their links with the plan's balanced counts.
std::vector<Judged> judge(const Profile& profile,
                          const Plan& plan,
                          const GpuCalibration& calibration,
                          const std::set<size_t>& judged) {
  const GpuCosts costs(calibration, plan.cluster);
  const MemberLoad load = expected_load(plan);
  std::map<OpName, size_t> runs;
  for (const ProfiledOp& op : profile.ops) ++runs[op.op];
  for (const auto& [op, n] : runs) {
    if (n != runs.begin()->second) {
      throw InputError(fmt::format("the trace has {} {} times and {} {} times: it was cut off",
                                   to_string(runs.begin()->first),
                                   runs.begin()->second,
                                   to_string(op),
                                   n));
    }
    if (is_all_to_all(op.first) && !load.exchange) {
      throw InputError(fmt::format("{}: layout.ep: the trace has {}, which moves nothing at ep 1",
                                   plan.path,
                                   to_string(op)));
    }
  }
  std::map<OpName, Judged> sums;
  std::map<OpName, size_t> seen;
  for (const ProfiledOp& op : profile.ops) {
    const size_t repetition = seen[op.op]++;
    if (!judged.contains(repetition)) continue;
    Judged& j = sums[op.op];
    j.op = op.op;
    const auto n = static_cast<double>(judged.size());
    const double waiting = op.of(WorkKind::kWaiting).seconds();
    j.waiting += waiting / n;
    j.measured += ((op.end - op.begin).seconds() - waiting) / n;
    if (is_all_to_all(op.op.first)) continue;
    const std::vector<GpuTask> tasks = layer_tasks(plan, op.op, with_rows(load, op));
    j.predicted += costs.time(op.op.first, op.op.second, tasks).beside / n;
  }
  // All-to-alls with their links to themselves, beside the pair's computation, no expert preferred.
  Plan random = plan;
  random.expert_load = {.synthetic = true, .skew = 0, .varies = LoadVaries::kNever};
  for (const ExchangeSpeed& s :
       exchange_speeds(random, build_program(plan, Mode::kPair), with_calibration(calibration))) {
    const auto at = sums.find({s.kind, s.pass});
    if (at != sums.end()) at->second.predicted = s.mean.seconds();
  }
  std::vector<Judged> out;
  for (const auto& [name, j] : sums) out.push_back(j);
  return out;
}

Json to_json(const std::vector<Judged>& judged) {
  Json ops = Json::array();
  for (const Judged& j : judged) {
    ops.push_back({{"op", to_string(j.op)},
                   {"predicted_s", j.predicted},
                   {"measured_s", j.measured},
                   {"waiting_s", j.waiting},
                   {"error", j.error()}});
  }
  return ops;
}

std::string table_of(const std::vector<Judged>& judged) {
  Table table({"op", "predicted", "measured", "error", "waiting, measured"});
  const auto ms = [](double s) { return fmt::format("{:.3f} ms", s * 1e3); };
  for (const Judged& j : judged) {
    table.row(
        {to_string(j.op), ms(j.predicted), ms(j.measured), percent(j.error()), ms(j.waiting)});
  }
  return table.text();
}

std::set<size_t> all_of(size_t n) {
  std::set<size_t> all;
  for (size_t i = 0; i < n; ++i) all.insert(i);
  return all;
}

// The pair as the simulator has it, mean over ranks, with the plan's expert load: unequal loads are
// what makes ranks wait for one another.
struct PairResult {
  Duration step;
  double data_share = 0;     // of the step: the communication lane's data on its way
  double waiting_share = 0;  // of the step: all-to-alls' wait for other ranks
  double exposed = 0;
};
PairResult pair_result(const Plan& plan, const GpuCalibration& calibration) {
  const Program program = build_program(plan, Mode::kPair);
  const Prediction p = rehearse::simulate(plan, program, with_calibration(calibration));
  PairResult r{.step = p.summary.step,
               .waiting_share = p.summary.exchange_wait_fraction,
               .exposed = p.summary.exposed_comm_fraction};
  const GpuCosts costs(calibration, plan.cluster);
  const MemberLoad load = expected_load(plan);
  double data = 0;
  for (OpId id = 0; id < program.global_size(); ++id) {
    const Op& op = program.op(id);
    if (!is_all_to_all(op.kind)) continue;
    const Span& span = p.timeline.spans[static_cast<size_t>(id)];
    data += (span.end - span.begin).seconds() -
            costs.time(op.kind, op.pass, layer_tasks(plan, {op.kind, op.pass}, load)).beside;
  }
  r.data_share =
      data / static_cast<double>(plan.layout.world()) / r.step.seconds() - r.waiting_share;
  return r;
}

double share_of(const Profile& profile, WorkKind kind) {
  double sum = 0;
  for (const ProfiledOp& op : profile.ops) sum += op.of(kind).seconds();
  return sum / profile.length().seconds();
}

// Each repetition left out in turn and told from the others.
int leave_each_out(const Profile& profile, const Plan& plan, const Options& options) {
  const size_t n = profile.repetitions();
  if (n < 2) throw InputError("--leave-each-out needs at least two repetitions in the trace");
  Json out = Json::array();
  std::string text = fmt::format("measured: {} long, data {:.1f}% and waiting {:.1f}% of it\n\n",
                                 to_string(profile.length()),
                                 100 * share_of(profile, WorkKind::kData),
                                 100 * share_of(profile, WorkKind::kWaiting));
  double worst = 0;
  for (size_t i = 0; i < n; ++i) {
    GpuCalibration c = import_profile(profile.ops,
                                      profile.trace,
                                      plan,
                                      options.get<std::string>("from-trace"),
                                      {.leave_out = static_cast<int64_t>(i)});
    complete(options, plan, c);
    const PairResult pair = pair_result(plan, c);
    const std::vector<Judged> whole = judge(profile, plan, c, all_of(n));
    const std::vector<Judged> left_out = judge(profile, plan, c, {i});
    const double error = pair.step / profile.length() - 1;
    for (const Judged& j : whole) worst = std::max(worst, std::abs(j.error()));
    out.push_back({{"left_out", i},
                   {"pair_predicted_s", pair.step.seconds()},
                   {"pair_measured_s", profile.length().seconds()},
                   {"pair_error", error},
                   {"data_share_predicted", pair.data_share},
                   {"data_share_measured", share_of(profile, WorkKind::kData)},
                   {"waiting_share_predicted", pair.waiting_share},
                   {"waiting_share_measured", share_of(profile, WorkKind::kWaiting)},
                   {"exposed_comm_predicted", pair.exposed},
                   {"ops", to_json(whole)},
                   {"ops_of_the_one_left_out", to_json(left_out)}});
    text += fmt::format(
        "repetition {} left out: pair {} ({}), data {:.1f}%, waiting {:.1f}%, exposed {:.1f}%\n{}"
        "  the one left out alone:\n{}\n",
        i,
        to_string(pair.step),
        percent(error),
        100 * pair.data_share,
        100 * pair.waiting_share,
        100 * pair.exposed,
        table_of(whole),
        table_of(left_out));
  }
  if (options.json()) {
    std::cout << Json{{"repetitions", out}, {"worst_op_error", worst}}.dump(2) << "\n";
  } else {
    std::cout << text << fmt::format("worst op over the whole pair: {:.1f}%\n", 100 * worst);
  }
  return 0;
}

int judge_calibration(const Profile& profile, const Plan& plan, const Options& options) {
  const GpuCalibration c = load_gpu_calibration(options.get<std::string>("judge"));
  const std::vector<Judged> judged = judge(profile, plan, c, all_of(profile.repetitions()));
  const PairResult pair = pair_result(plan, c);
  if (options.json()) {
    std::cout << Json{{"pair_predicted_s", pair.step.seconds()},
                      {"pair_measured_s", profile.length().seconds()},
                      {"pair_error", pair.step / profile.length() - 1},
                      {"data_share_predicted", pair.data_share},
                      {"data_share_measured", share_of(profile, WorkKind::kData)},
                      {"contention", GpuCosts(c, plan.cluster).contention()},
                      {"ops", to_json(judged)}}
                     .dump(2)
              << "\n";
    return 0;
  }
  std::cout << table_of(judged)
            << fmt::format("\npair {} (measured {}, {})\n",
                           to_string(pair.step),
                           to_string(profile.length()),
                           percent(pair.step / profile.length() - 1));
  return 0;
}

void show(const GpuCalibration& c, const Profile& profile) {
  Table table({"op", "work", "median", "min", "max", "rate"});
  for (const GpuEntry& e : c.entries) {
    std::vector<double> times, rates;
    for (const GpuEntry::Sample& s : e.samples) {
      times.push_back(s.time.seconds());
      const bool flops = s.flops.count() > 0;
      rates.push_back((flops ? s.flops.count() : static_cast<double>(s.bytes.count())) /
                      s.time.seconds());
    }
    const auto [low, high] = std::minmax_element(times.begin(), times.end());
    const bool flops = e.samples.front().flops.count() > 0;
    const bool work = flops || e.samples.front().bytes.count() > 0;
    std::string what(name_of(e.kind));
    if (e.m > 0) what += fmt::format(" {}x{}x{}x{}", e.groups, e.m, e.n, e.k);
    table.row({e.op ? to_string(*e.op) : std::string("any"),
               what,
               to_string(Duration::seconds(median(times))),
               to_string(Duration::seconds(*low)),
               to_string(Duration::seconds(*high)),
               !work   ? std::string("-")
               : flops ? to_string(FlopsPerSecond(median(rates)))
                       : to_string(BytesPerSecond(median(rates)))});
  }
  std::cout << fmt::format("{}, {} device events, {} ops, {} repetitions\n\n{}\n",
                           c.device,
                           profile.trace.events.size(),
                           profile.ops.size(),
                           profile.repetitions(),
                           table.text());
}

}  // namespace

void add_trace_options(Options& options) {
  options.add()("from-trace",
                po::value<std::string>(),
                "import a PyTorch profiler (Kineto) trace, plain or gzip, of the plan's pair")(
      "map", po::value<std::string>(), "which kernels are which ops and kinds of work (YAML)")(
      "published",
      po::value<std::string>(),
      "a calibration of GPUs whose entries (published figures) are added")(
      "only", po::value<std::string>(), "import these ops alone, such as attn.F,dispatch.F")(
      "leave-out", po::value<int64_t>(), "import without this repetition of every op, from 0")(
      "leave-each-out", "tell each repetition, and the pair, from the others; writes nothing")(
      "judge",
      po::value<std::string>(),
      "tell the trace's ops by this calibration instead; writes nothing");
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
  const std::string out = options.has("out") ? options.get<std::string>("out")
                                             : default_out(plan) + "/calibration.yaml";
  if (writes) require_writable(out);
  const Profile profile = read_profile(options);
  if (options.has("leave-each-out")) return leave_each_out(profile, plan, options);
  if (options.has("judge")) return judge_calibration(profile, plan, options);
  ImportOptions import;
  if (options.has("only")) import.only = read_ops(options.get<std::string>("only"));
  if (options.has("leave-out")) {
    import.leave_out = options.get<int64_t>("leave-out");
    if (import.leave_out < 0) throw UsageError("calibrate: --leave-out counts from 0");
  }
  const std::string source =
      std::filesystem::path(options.get<std::string>("from-trace")).filename().string();
  GpuCalibration c = import_profile(profile.ops, profile.trace, plan, source, import);
  complete(options, plan, c);
  write_file(out, print_gpu_calibration(c));
  if (options.json()) {
    std::cout << Json{{"device", c.device},
                      {"entries", c.entries.size()},
                      {"repetitions", profile.repetitions()},
                      {"orphans", profile.trace.orphans},
                      {"file", out}}
                     .dump(2)
              << "\n";
  } else {
    show(c, profile);
    std::cout << "written: " << out << "\n";
  }
  return 0;
}

}  // namespace rehearse::cli
