#include "cli/calibrate_tables.h"

#include <fmt/format.h>

#include "base/file.h"
#include "cli/report.h"
#include "sim/import/kernel_tables.h"

namespace rehearse::cli {

void add_table_options(Options& options) {
  options.value("judge-table",
                "FILE",
                "how well a table of measured products (CSV: dtype,m,n,k,us) on a device of the "
                "plan's\ncluster tells those that are left out of it, whole families of n and k at "
                "a time");
}

int judge_table(const Options& options) {
  if (options.plan_paths().size() != 1) {
    throw UsageError(
        "calibrate: --judge-table takes one plan, whose cluster is of the device measured");
  }
  options.refuse({"out"}, "is for calibrations; --judge-table only reads");
  const Plan plan = load_plan(options.plan_path());
  if (!plan.cluster.of_gpus()) {
    throw InputError(plan.path + ": --judge-table needs a plan on GPUs");
  }
  const Cluster& c = plan.cluster;
  const std::string path = options.text("judge-table");
  const auto tables = parse_product_table(read_file(path), path, c);
  // Shorter ones are a matter of launches, not of products.
  const Duration shortest = Duration::microseconds(50);
  Report r;
  r.say(
      fmt::format("{}: products of at least {}, each told from families of n and k that are not "
                  "its own\n\n",
                  path,
                  to_string(shortest)));
  Report::Table shown{.columns = {{"", "dtype"},
                                  {"", "rows"},
                                  {"", "judged"},
                                  {"", "mean absolute error"},
                                  {"", "95%"},
                                  {"", "bias"}}};
  const auto percent_of = [](double x) { return fmt::format("{:.1f}%", 100 * x); };
  for (const auto& [dtype, products] : tables) {
    const Format format = format_of_table(dtype);
    const ProductTable table(
        products,
        format,
        {.bf16 = c.peak, .fp8 = c.peak_fp8.value_or(c.peak), .memory = c.memory_bandwidth},
        c.sms);
    const TableErrors e = leave_out_families(table, shortest);
    shown.row({dtype,
               products.size(),
               e.products,
               percent_of(e.mean_absolute),
               percent_of(e.percentile_95),
               percent_of(e.bias)});
    Report& of = r.item("products");
    of.put("dtype", dtype);
    of.put("rows", products.size());
    of.put("judged", e.products);
    of.put("mean_absolute_error", e.mean_absolute);
    of.put("percentile_95_error", e.percentile_95);
    of.put("bias", e.bias);
  }
  r.table("", std::move(shown));
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
