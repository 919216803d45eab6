#include "cli/calibrate_tables.h"

#include <fmt/format.h>

#include "base/file.h"
#include "cli/report.h"
#include "sim/import/kernel_tables.h"

namespace rehearse::cli {

void add_table_options(Options& options) {
  options.value(
      "judge-table",
      "FILE",
      "how well a table of measured products (CSV: dtype,m,n,k,us) or attention\n"
      "(kernel,batch,sequence,heads,kv_heads,head_dim,window,us) on a device of the plan's "
      "cluster\ntells rows that are left out of it, whole families at a time");
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
  const std::string text = read_file(path);
  const GpuPeaks peaks{
      .bf16 = c.peak, .fp8 = c.peak_fp8.value_or(c.peak), .memory = c.memory_bandwidth};
  // Shorter ones are a matter of launches, not of kernels.
  const Duration shortest = Duration::microseconds(50);
  Report r;
  r.say(fmt::format("{}: rows of at least {}, each told from other families' alone\n\n",
                    path,
                    to_string(shortest)));
  Report::Table shown{.columns = {{"", "kernel"},
                                  {"", "family"},
                                  {"", "rows"},
                                  {"", "judged"},
                                  {"", "mean absolute error"},
                                  {"", "95%"},
                                  {"", "bias"}}};
  const auto percent_of = [](double x) { return fmt::format("{:.1f}%", 100 * x); };
  const auto put =
      [&](const std::string& name, const char* family, size_t rows, const TableErrors& e) {
        shown.row({name,
                   family,
                   rows,
                   e.rows,
                   percent_of(e.mean_absolute),
                   percent_of(e.percentile_95),
                   percent_of(e.bias)});
        Report& of = r.item("kernels");
        of.put("kernel", name);
        of.put("family", family);
        of.put("rows", rows);
        of.put("judged", e.rows);
        of.put("mean_absolute_error", e.mean_absolute);
        of.put("percentile_95_error", e.percentile_95);
        of.put("bias", e.bias);
      };
  if (is_attention_table(text)) {
    for (const auto& [kernel, rows] : parse_attention_table(text, path, c)) {
      put("attention, " + kernel,
          "heads, key-value heads",
          rows.size(),
          AttentionTable(rows, peaks, c.sms).judge(shortest));
    }
  } else {
    for (const auto& [dtype, products] : parse_product_table(text, path, c)) {
      put("product, " + dtype,
          "n, k",
          products.size(),
          ProductTable(products, format_of_table(dtype), peaks, c.sms).judge(shortest));
    }
  }
  r.table("", std::move(shown));
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
