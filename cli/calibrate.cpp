// rehearse calibrate: times single kernels at the shapes a plan needs.

#include "runtime/calibrate.h"

#include <algorithm>
#include <iostream>
#include <set>

#include <fmt/format.h>

#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/measure.h"
#include "cli/results.h"
#include "plan/capabilities.h"
#include "sim/op_cost.h"

namespace rehearse::cli {

namespace po = boost::program_options;

Calibration measure(const Plan& plan, const Program& program, const MeasureOptions& options) {
  std::set<KernelCall> calls;
  const std::vector<int64_t> rows = balanced_rows_here(plan);
  for (const KernelCall& call : kernels_of(plan, program)) {
    calls.insert(call);
    // Routing is not balanced in fact: experts get fewer and more rows than the mean.
    const bool of_expert = !rows.empty() && call.shape[kRowsEntry] == rows.front();
    if (!of_expert) continue;
    for (const double factor : {0.125, 0.25, 0.5, 1.5, 2.0, 4.0}) {
      KernelCall scaled = call;
      scaled.shape[kRowsEntry] =
          std::max<int64_t>(1, static_cast<int64_t>(factor * static_cast<double>(rows.front())));
      calls.insert(scaled);
    }
  }
  Calibration calibration{.machine = processor_name(),
                          .cores = host_cores(),
                          .build = build_description(),
                          .lane_handover = time_lane_handover()};
  Progress progress(
      {.label = "calibrate", .total = static_cast<int64_t>(calls.size()), .quiet = options.quiet});
  int64_t done = 0;
  for (const KernelCall& call : calls) {
    const KernelTiming t = time_cpu_kernel(call, calibration.cores, options.budget_per_kernel);
    calibration.kernels[call] = {.alone = t.median, .low = t.low, .high = t.high, .busy = t.busy};
    progress.update(++done, to_string(call));
  }
  return calibration;
}

int calibrate(const Arguments& args) {
  Options options(
      {.name = "calibrate",
       .about =
           "Times every kernel that the plan's ops call on this machine, at the plan's shapes,\n"
           "alone and while all cores run the same kernel, and writes a calibration file that\n"
           "`simulate` takes. Single kernels only: no step is run.",
       .examples = "  rehearse calibrate plan.yaml --out calibration.yaml\n"
                   "  rehearse simulate plan.yaml --calibration calibration.yaml\n"});
  options.add()(
      "out", po::value<std::string>(), "file to write (default: out/<plan>/calibration.yaml)");
  options.add()("device", po::value<std::string>()->default_value("cpu"), "cpu");
  options.add()("milliseconds",
                po::value<int64_t>()->default_value(30),
                "time per kernel and condition; more gives steadier medians");
  if (!options.parse(args)) return 0;
  if (options.get<std::string>("device") != "cpu") {
    throw UsageError("calibrate: --device must be cpu");
  }
  const int64_t milliseconds = options.get<int64_t>("milliseconds");
  if (milliseconds < 1 || milliseconds > 10'000) {
    throw UsageError("calibrate: --milliseconds must be from 1 to 10000");
  }
  const Plan plan = load_plan(options.plan_path());
  if (plan.cluster.device != DeviceKind::kCpu) {
    throw InputError(
        fmt::format("{}: its cluster '{}' is not of CPU cores, which is what --device cpu measures",
                    plan.path,
                    plan.cluster.name));
  }
  require_simulate(plan);
  const Program program = build_program(plan);
  const std::string path = options.has("out") ? options.get<std::string>("out")
                                              : default_out(plan) + "/calibration.yaml";
  require_writable(path);
  const Calibration c =
      measure(plan,
              program,
              {.budget_per_kernel = Duration::seconds(static_cast<double>(milliseconds) * 1e-3),
               .quiet = options.quiet()});
  write_file(path, print_calibration(c));
  if (options.json()) {
    const Json json = {{"kernels", c.kernels.size()},
                       {"machine", c.machine},
                       {"cores", c.cores},
                       {"lane_handover_s", c.lane_handover.seconds()},
                       {"file", path}};
    std::cout << json.dump(2) << "\n";
    return 0;
  }
  Table table({"kernel", "alone", "5%", "95%", "all cores busy", "rate alone"});
  for (const auto& [call, t] : c.kernels) {
    const bool product = call.kernel <= Kernel::kMatmulGradWeight;
    table.row({to_string(call),
               to_string(t.alone),
               to_string(t.low),
               to_string(t.high),
               to_string(t.busy),
               product
                   ? to_string(FlopsPerSecond(flops(call).count() / t.alone.seconds()))
                   : to_string(BytesPerSecond(static_cast<double>(memory_traffic(call, 4).count()) /
                                              t.alone.seconds()))});
  }
  std::cout << c.machine << ", " << c.cores << " cores, lane hand-over "
            << to_string(c.lane_handover) << "\n\n"
            << table.text() << "\nwritten: " << path << "\n";
  return 0;
}

}  // namespace rehearse::cli
