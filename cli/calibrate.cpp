// rehearse calibrate: times single kernels and the runtime's overheads.

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/calibrate_kernels.h"
#include "cli/calibrate_links.h"
#include "cli/calibrate_tables.h"
#include "cli/calibrate_trace.h"
#include "cli/command.h"
#include "cli/disturbance.h"
#include "cli/measure.h"
#include "plan/capabilities.h"

namespace rehearse::cli {
namespace {

std::string rate_of(const KernelCall& call, Duration time) {
  const bool product = is_product(call.kernel) || is_attention(call.kernel);
  return product ? to_string(FlopsPerSecond(flops(call).count() / time.seconds()))
                 : to_string(BytesPerSecond(
                       static_cast<double>(memory_traffic(call, sizeof(float)).count()) /
                       time.seconds()));
}

Report calibration_report(const Calibration& c,
                          const std::optional<MachineLoad>& load,
                          const std::string& path) {
  Report r;
  put_warnings(r,
               {busy_warning(load, "kernels were timed")},
               "the times include that; calibrate again when the machine is quiet");
  put_load(r, "machine_load", load);
  r.say(fmt::format("{}, {} cores\n\n", c.machine, c.cores));
  r.put("kernels", c.kernels.size());
  r.put("machine", c.machine);
  r.put("cores", c.cores);
  // Of each kernel its slowest call: the whole list is in the file.
  Report::Table table{.columns = {{"", "kernel, its largest call"},
                                  {"", "calls"},
                                  {"", "alone"},
                                  {"", "5%"},
                                  {"", "95%"},
                                  {"", "all cores busy"},
                                  {"", "rate"}}};
  for (const Kernel kernel : all_kernels()) {
    int64_t count = 0;
    const std::pair<const KernelCall, KernelTime>* slowest = nullptr;
    for (const auto& entry : c.kernels) {
      if (entry.first.kernel != kernel) continue;
      ++count;
      if (slowest == nullptr || entry.second.alone > slowest->second.alone) slowest = &entry;
    }
    if (slowest == nullptr) continue;
    const auto& [call, t] = *slowest;
    table.row({to_string(call), count, t.alone, t.low, t.high, t.busy, rate_of(call, t.alone)});
  }
  r.table("", std::move(table));
  const Overheads& o = c.overheads;
  const auto [slow, fast] = std::minmax_element(c.drift.begin(), c.drift.end());
  r.say(
      fmt::format("\n"
                  "  an op after another one of its lane   {}\n"
                  "  a sleeping lane's wake-up             {} (other cores working: {})\n"
                  "  a message beyond its link's time      {} (all cores working: {})\n"
                  "  a meeting of ranks                    {}\n"
                  "  drift between rounds                  {} to {}\n",
                  to_string(o.op_start),
                  to_string(o.wake_idle),
                  to_string(o.wake_busy),
                  to_string(o.message_idle),
                  to_string(o.message_busy),
                  to_string(o.collective),
                  percent(*slow - 1),
                  percent(*fast - 1)));
  if (c.interpolation_error > 0) {
    r.say(fmt::format("  error of interpolated products        {:.1f}%, root mean square\n",
                      100 * c.interpolation_error));
  }
  Report& overheads = r.section("overheads");
  overheads.put("op_start_s", o.op_start);
  overheads.put("wake_idle_s", o.wake_idle);
  overheads.put("wake_busy_s", o.wake_busy);
  overheads.put("message_idle_s", o.message_idle);
  overheads.put("message_busy_s", o.message_busy);
  overheads.put("collective_s", o.collective);
  r.put("drift", std::vector<Value>(c.drift.begin(), c.drift.end()));
  r.put("interpolation_error", c.interpolation_error);
  r.put("file", path);
  r.say(fmt::format("\nwritten: {}\n", path));
  return r;
}

// Times a few of the file's calls again.
int check(const std::string& path, const Options& options) {
  const Calibration c = load_calibration(path);
  const LoadWatch watch;
  const SpeedCheck::Result now = SpeedCheck(c).now();
  const std::optional<MachineLoad> load = watch.so_far();
  if (now.calls == 0) throw InputError(path + ": holds no products or attention to time again");
  // Machines' speeds wander by some percent from one minute to the next; beyond this a prediction's
  // error would be the calibration's.
  constexpr double kSame = 0.1;
  const bool same = std::abs(now.ratio - 1) <= kSame;
  Report r;
  put_warnings(r, {busy_warning(load, "kernels were timed again")}, "the times below include that");
  put_load(r, "machine_load", load);
  r.say(fmt::format("{} kernels timed again: {} of the file's times (10% to 90%: {} to {})\n{}\n",
                    now.calls,
                    percent(now.ratio - 1),
                    percent(now.low - 1),
                    percent(now.high - 1),
                    same ? "the calibration holds"
                    : load && load->busy()
                        ? "the calibration is stale, or the machine was too busy to tell: look "
                          "again when it is not"
                        : "the calibration is stale: run `rehearse calibrate` again"));
  r.put("file", path);
  r.put("calls", now.calls);
  r.put("time_ratio_median", now.ratio);
  r.put("time_ratio_low", now.low);
  r.put("time_ratio_high", now.high);
  r.put("holds", same);
  options.print(r);
  return same ? 0 : 1;
}

}  // namespace

int calibrate(const Arguments& args) {
  Options options(
      {.name = "calibrate",
       .about =
           "Times single kernels on this machine, alone and while all cores run the same one, and\n"
           "the runtime's overheads, and writes a calibration file that `simulate` takes. No step\n"
           "is run. A grid of shapes lets any small model be interpolated; plans that are given\n"
           "have their own shapes timed too, which is more exact.\n\n"
           "For GPUs it imports instead: --from-trace takes a profile of one overlapped pair,\n"
           "--links what nccl-tests and DeepEP's tests print, --kernels what our kernels' bench "
           "(tools/gpu_check.sh)\nmeasured, --from-tables what was published of kernels' times. A "
           "trace whose ops have no "
           "annotations\n"
           "is mapped by kernel names; topologies/h800-dualpipe.map.yaml is an example of a map.",
       .examples =
           "  rehearse calibrate --device cpu --out calibration.yaml\n"
           "  rehearse calibrate plan.yaml --out calibration.yaml\n"
           "  rehearse simulate plan.yaml --calibration calibration.yaml\n"
           "  rehearse calibrate --check calibration.yaml      does it still hold?\n"
           "  rehearse calibrate pair.yaml --from-trace trace.json.gz --map kernels.map.yaml\n"
           "  rehearse calibrate plan.yaml --kernels bench.json --out h200.calibration.yaml\n"
           "  rehearse calibrate plan.yaml --from-tables gemm.csv --from-tables attention.csv "
           "--out gpu.yaml\n"
           "  rehearse calibrate plan.yaml --judge-table gemm.csv      what a table tells of "
           "others\n"
           "  rehearse calibrate --links all_reduce.txt --links deepep.txt --base gpu.yaml\n",
       .plan = PlanArgument::kNoneOrSeveral});
  options
      .output("out",
              "file to write (default: out/<first plan>/calibration.yaml, or out/calibration.yaml)")
      .value("device", "KIND", "cpu", "cpu")
      .value("milliseconds",
             "MS",
             "time per kernel, condition and round; more gives steadier medians",
             "0.3")
      .value("rounds", "N", "how often all kernels are gone through", "6")
      .flag("no-grid", "only the shapes of the given plans")
      .value("check", "FILE", "time some kernels of this calibration file again");
  add_trace_options(options);
  add_link_options(options);
  add_kernel_options(options);
  add_table_options(options);
  if (!options.parse(args)) return 0;
  const std::vector<std::string> measuring = {"device", "milliseconds", "rounds", "no-grid"};
  const std::vector<std::string> of_trace = {
      "map", "published", "only", "leave-out", "leave-each-out", "judge"};
  const auto alone = [&](const std::string& source, const std::vector<std::string>& others) {
    if (!options.has(source)) return false;
    options.refuse(others, fmt::format("does not go with --{}", source));
    options.refuse(measuring, "is for measuring this machine");
    return true;
  };
  if (!options.has("from-trace")) options.refuse(of_trace, "is for --from-trace");
  if (!options.has("links")) options.refuse({"base"}, "is for --links");
  if (!options.has("from-tables")) options.refuse({"choose", "source"}, "is for --from-tables");
  if (!options.has("judge-table")) options.refuse({"told-by"}, "is for --judge-table");
  if (alone("from-trace", {"links", "kernels", "from-tables", "judge-table", "check"})) {
    return calibrate_from_trace(options);
  }
  if (alone("links", {"kernels", "from-tables", "judge-table", "check"})) {
    return calibrate_links(options);
  }
  if (alone("kernels", {"from-tables", "judge-table", "check"})) return calibrate_kernels(options);
  if (alone("from-tables", {"judge-table", "check"})) return calibrate_from_tables(options);
  if (alone("judge-table", {"check"})) return judge_table(options);
  if (options.text("device") != "cpu") {
    throw UsageError("calibrate: --device must be cpu");
  }
  if (options.has("check")) {
    options.refuse({"milliseconds", "rounds", "no-grid", "out"},
                   "is for measuring; --check only reads");
    if (!options.plan_paths().empty()) throw UsageError("calibrate: --check takes no plan");
    return check(options.text("check"), options);
  }
  const double milliseconds = options.number("milliseconds", 0, 10'000);
  const int64_t rounds = options.integer("rounds", {.min = 1, .max = 1000});
  std::vector<Plan> plans;
  for (const std::string& path : options.plan_paths()) {
    plans.push_back(load_plan(path));
    const Plan& plan = plans.back();
    if (plan.cluster.of_gpus()) {
      throw InputError(fmt::format(
          "{}: its cluster '{}' is of GPUs; --device cpu measures cores, which emulate devices too",
          plan.path,
          plan.cluster.name));
    }
    require_simulate(plan);
  }
  if (options.has("no-grid") && plans.empty()) {
    throw UsageError("calibrate: --no-grid leaves nothing to measure without a plan");
  }
  const std::string path = options.has("out") ? options.text("out")
                           : plans.empty()    ? "out/calibration.yaml"
                                              : default_out(plans.front()) + "/calibration.yaml";
  options.check_outputs(default_output(options, path));
  const LoadWatch watch;
  const Calibration c = measure(plans,
                                {.grid = !options.has("no-grid"),
                                 .budget_per_kernel = Duration::seconds(milliseconds * 1e-3),
                                 .rounds = rounds,
                                 .quiet = options.quiet()});
  const std::optional<MachineLoad> load = watch.so_far();
  write_calibration(path, c);
  options.print(calibration_report(c, load, path));
  return 0;
}

}  // namespace rehearse::cli
