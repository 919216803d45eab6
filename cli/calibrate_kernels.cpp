#include "cli/calibrate_kernels.h"

#include <fmt/format.h>

#include "base/file.h"
#include "cli/report.h"
#include "sim/import/kernel_bench.h"

namespace rehearse::cli {

void add_kernel_options(Options& options) {
  options.value(
      "kernels", "FILE", "what kernels_bench --json wrote, on a device of the plan's cluster");
}

int calibrate_kernels(const Options& options) {
  if (options.plan_paths().size() != 1) {
    throw UsageError(
        "calibrate: --kernels takes one plan, whose cluster is of the device measured");
  }
  const Plan plan = load_plan(options.plan_path());
  if (!plan.cluster.of_gpus()) {
    throw InputError(plan.path + ": --kernels needs a plan on GPUs");
  }
  const std::string out =
      options.has("out") ? options.text("out") : std::string("out/calibration.yaml");
  options.check_outputs(default_output(options, out));
  const std::string path = options.text("kernels");
  const GpuCalibration c = parse_kernel_bench(read_file(path), path, plan.cluster);
  write_gpu_calibration(out, c);
  Report r;
  r.say(c.source + "\n\n");
  r.put("source", c.source);
  Report::Table table{.columns = {{"", "case, tiles, clock"}, {"", "time"}, {"", "rate"}}};
  for (const GpuEntry& e : c.entries) {
    const GpuEntry::Sample& s = e.samples.front();
    table.row(
        {e.source,
         s.time,
         e.kind == WorkKind::kProduct
             ? to_string(FlopsPerSecond(s.flops.count() / s.time.seconds()))
             : to_string(BytesPerSecond(static_cast<double>(s.bytes.count()) / s.time.seconds()))});
  }
  r.table("", std::move(table));
  r.put("entries", c.entries.size());
  r.put("file", out);
  r.say(fmt::format("\nwritten: {}\n", out));
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
