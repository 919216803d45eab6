// rehearse calibrate: times single kernels and the runtime's overheads.

#include <algorithm>
#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "cli/calibrate_links.h"
#include "cli/calibrate_trace.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "cli/results.h"
#include "plan/capabilities.h"

namespace rehearse::cli {
namespace {

namespace po = boost::program_options;

std::string rate_of(const KernelCall& call, Duration time) {
  const bool product = call.kernel <= Kernel::kMatmulGradWeight ||
                       call.kernel == Kernel::kAttention ||
                       call.kernel == Kernel::kAttentionBackward;
  return product ? to_string(FlopsPerSecond(flops(call).count() / time.seconds()))
                 : to_string(BytesPerSecond(
                       static_cast<double>(memory_traffic(call, sizeof(float)).count()) /
                       time.seconds()));
}

Json to_json(const Overheads& o) {
  return {{"op_start_s", o.op_start.seconds()},
          {"wake_idle_s", o.wake_idle.seconds()},
          {"wake_busy_s", o.wake_busy.seconds()},
          {"message_idle_s", o.message_idle.seconds()},
          {"message_busy_s", o.message_busy.seconds()},
          {"collective_s", o.collective.seconds()}};
}

void show(const Calibration& c, const std::string& path) {
  // Of each kernel its slowest call: the whole list is in the file.
  Table table(
      {"kernel, its largest call", "calls", "alone", "5%", "95%", "all cores busy", "rate"});
  for (const std::string_view name : kernel_names()) {
    const Kernel kernel = *kernel_named(name);
    int64_t count = 0;
    const std::pair<const KernelCall, KernelTime>* slowest = nullptr;
    for (const auto& entry : c.kernels) {
      if (entry.first.kernel != kernel) continue;
      ++count;
      if (slowest == nullptr || entry.second.alone > slowest->second.alone) slowest = &entry;
    }
    if (slowest == nullptr) continue;
    const auto& [call, t] = *slowest;
    table.row({to_string(call),
               std::to_string(count),
               to_string(t.alone),
               to_string(t.low),
               to_string(t.high),
               to_string(t.busy),
               rate_of(call, t.alone)});
  }
  const auto [slow, fast] = std::minmax_element(c.drift.begin(), c.drift.end());
  std::cout << fmt::format(
      "{}, {} cores\n\n{}\n"
      "  an op after another one of its lane   {}\n"
      "  a sleeping lane's wake-up             {} (other cores working: {})\n"
      "  a message beyond its link's time      {} (all cores working: {})\n"
      "  a meeting of ranks                    {}\n"
      "  drift between rounds                  {} to {}\n",
      c.machine,
      c.cores,
      table.text(),
      to_string(c.overheads.op_start),
      to_string(c.overheads.wake_idle),
      to_string(c.overheads.wake_busy),
      to_string(c.overheads.message_idle),
      to_string(c.overheads.message_busy),
      to_string(c.overheads.collective),
      percent(*slow - 1),
      percent(*fast - 1));
  if (c.interpolation_error > 0) {
    std::cout << fmt::format("  error of interpolated products        {:.1f}%, root mean square\n",
                             100 * c.interpolation_error);
  }
  std::cout << "\nwritten: " << path << "\n";
}

// Times a few of the file's calls again.
int check(const std::string& path, const Options& options) {
  const Calibration c = load_calibration(path);
  const SpeedCheck::Result now = SpeedCheck(c).now();
  if (now.calls == 0) throw InputError(path + ": holds no products or attention to time again");
  constexpr double kSame = 0.1;
  const bool same = std::abs(now.ratio - 1) <= kSame;
  if (options.json()) {
    const Json json = {{"file", path},
                       {"calls", now.calls},
                       {"time_ratio_median", now.ratio},
                       {"time_ratio_low", now.low},
                       {"time_ratio_high", now.high},
                       {"holds", same}};
    std::cout << json.dump(2) << "\n";
  } else {
    std::cout << fmt::format(
        "{} kernels timed again: {} of the file's times (10% to 90%: {} to {})\n{}\n",
        now.calls,
        percent(now.ratio - 1),
        percent(now.low - 1),
        percent(now.high - 1),
        same ? "the calibration holds"
             : "the calibration is stale: run `rehearse calibrate` again");
  }
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
           "--links what nccl-tests and DeepEP's tests print. A trace whose ops have no "
           "annotations\n"
           "is mapped by kernel names; topologies/h800-dualpipe.map.yaml is an example of a map.",
       .examples =
           "  rehearse calibrate --device cpu --out calibration.yaml\n"
           "  rehearse calibrate plan.yaml --out calibration.yaml\n"
           "  rehearse simulate plan.yaml --calibration calibration.yaml\n"
           "  rehearse calibrate --check calibration.yaml      does it still hold?\n"
           "  rehearse calibrate pair.yaml --from-trace trace.json.gz --map kernels.map.yaml\n"
           "  rehearse calibrate --links all_reduce.txt --links deepep.txt --base gpu.yaml\n",
       .plan = PlanArgument::kNoneOrSeveral});
  options.add()(
      "out",
      po::value<std::string>(),
      "file to write (default: out/<first plan>/calibration.yaml, or out/calibration.yaml)");
  options.add()("device", po::value<std::string>()->default_value("cpu"), "cpu");
  options.add()("milliseconds",
                po::value<double>()->default_value(0.3),
                "time per kernel, condition and round; more gives steadier medians");
  options.add()(
      "rounds", po::value<int64_t>()->default_value(6), "how often all kernels are gone through");
  options.add()("no-grid", "only the shapes of the given plans");
  options.add()(
      "check", po::value<std::string>(), "time some kernels of this calibration file again");
  add_trace_options(options);
  add_link_options(options);
  if (!options.parse(args)) return 0;
  if (options.has("from-trace")) return calibrate_from_trace(options);
  if (options.has("links")) return calibrate_links(options);
  if (options.get<std::string>("device") != "cpu") {
    throw UsageError("calibrate: --device must be cpu");
  }
  if (options.has("check")) return check(options.get<std::string>("check"), options);
  const double milliseconds = options.get<double>("milliseconds");
  if (!(milliseconds > 0 && milliseconds <= 10'000)) {
    throw UsageError("calibrate: --milliseconds must be above 0 and at most 10000");
  }
  const auto rounds = options.get<int64_t>("rounds");
  if (rounds < 1 || rounds > 1000) throw UsageError("calibrate: --rounds must be from 1 to 1000");
  std::vector<Plan> plans;
  for (const std::string& path : options.plan_paths()) {
    plans.push_back(load_plan(path));
    const Plan& plan = plans.back();
    if (plan.cluster.device != DeviceKind::kCpu) {
      throw InputError(fmt::format(
          "{}: its cluster '{}' is not of CPU cores, which is what --device cpu measures",
          plan.path,
          plan.cluster.name));
    }
    require_simulate(plan);
  }
  if (options.has("no-grid") && plans.empty()) {
    throw UsageError("calibrate: --no-grid leaves nothing to measure without a plan");
  }
  const std::string path = options.has("out") ? options.get<std::string>("out")
                           : plans.empty()    ? "out/calibration.yaml"
                                              : default_out(plans.front()) + "/calibration.yaml";
  require_writable(path);
  const Calibration c = measure(plans,
                                {.grid = !options.has("no-grid"),
                                 .budget_per_kernel = Duration::seconds(milliseconds * 1e-3),
                                 .rounds = rounds,
                                 .quiet = options.quiet()});
  write_file(path, print_calibration(c));
  if (options.json()) {
    const Json json = {{"kernels", c.kernels.size()},
                       {"machine", c.machine},
                       {"cores", c.cores},
                       {"overheads", to_json(c.overheads)},
                       {"drift", c.drift},
                       {"interpolation_error", c.interpolation_error},
                       {"file", path}};
    std::cout << json.dump(2) << "\n";
  } else {
    show(c, path);
  }
  return 0;
}

}  // namespace rehearse::cli
