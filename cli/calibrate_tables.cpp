#include "cli/calibrate_tables.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/file.h"
#include "base/yaml.h"
#include "cli/report.h"
#include "sim/price/device.h"

namespace rehearse::cli {
namespace {

namespace fs = std::filesystem;

// --- a device's file

// What no table holds, by rules; the errors are this project's estimates of what each kind of
// origin is off by, from rows and runs that were held out.
constexpr std::string_view kRules = R"(rules:
  # Clocks under hours of load. Of Hopper, measured on an H200 that had multiplied for 40 s at 690 of 700 W, over the
  # tables' times of the same shapes (experiments/h200-pytorch): BF16 products 0.90 of the table's speed cold (48 shapes
  # from 50 us) and 0.935 of that warm; FP8 products as in the table cold (23 shapes), attention likewise; products of
  # more than 1 ms run at the lower clock in the tables already (9 shapes, 1.01). An A100's products draw less than its
  # 400 W; nobody publishes that it slows down.
  sustained: {sustained}
  # Backward over forward by the width of a query's head, medians of experiments/h200-pytorch: {attention}
  attention_backward: {backward}
  # Grouped products over one dense product of all rows: 700 TFLOP/s dense over 651 and 588 grouped
  # (experiments/h200-pytorch, balanced, from 8192 rows).
  grouped: 1.08
  grouped_weight: 1.19
  # [forward, backward]: share of the memory bandwidth, bytes as cost/gpu_tasks.h counts them; medians of
  # experiments/h200-pytorch from 3e7 elements: norms of two kinds, fused activations (GeLU), additions and dropout,
  # rows gathered, casts, fused AdamW, PyTorch's cross-entropy (which goes through FP32 logits several times),
  # gradients of an embedding's table. gate: the H800 profile's share. rope: as rows gathered.
  memory:
    cast: [0.52, 0.52]
    norm: [0.53, 0.32]
    rope: [0.76, 0.76]
    activation: [0.74, 0.83]
    permute: [0.76, 0.76]
    gate: [0.2, 0.2]
    elementwise: [0.72, 0.85]
    stream: [0.73, 0.73]
    loss: [0.125, 0.195]
    embedding: [0.7, 0.08]
  gap: 0.84 us   # between kernels of a CUDA graph (experiments/h200-pytorch)
  # Of the host, where the device waits for it: a dense layer's 10 pieces of work forward take 655 us and its 14
  # backward 844 us to launch (experiments/host-launches); a group's product within a call that launches all of them,
  # as a bare launch (experiments/h200-pytorch).
  host: 62 us
  host_group: 7.2 us
  contention: 1.13   # DeepGEMM's products alone over those in the H800 profile's pair, its SMs accounted for
  errors: {measured: 0.03, interpolated: 0.06, ruled: 0.15, ideal: 0.3, common: 0.08, experts: 0.25, host: 0.6}
  # host: two machines with one card launch in 655 and 875 us, one product of a group in 7 us (within one call) to 75 us
  # (a loop in Python) (experiments/host-launches)
)";

std::string replaced(std::string text, std::string_view what, const std::string& with) {
  return text.replace(text.find(what), what.size(), with);
}

// The kernel that counts of those that a table holds: as --choose says, else the first of
// `preferred` that is there.
std::string chosen(const Options& options,
                   const std::string& key,
                   const std::vector<std::string>& found,
                   const std::vector<std::string>& preferred) {
  const auto holds = [&](const std::string& kernel) {
    return std::ranges::find(found, kernel) != found.end();
  };
  const std::vector<std::string> choices =
      options.has("choose") ? options.texts("choose") : std::vector<std::string>{};
  for (const std::string& text : choices) {
    const size_t sign = text.find('=');
    if (text.substr(0, sign) != key || sign == std::string::npos) continue;
    const std::string kernel = text.substr(sign + 1);
    if (holds(kernel)) return kernel;
    throw InputError(fmt::format(
        "--choose {}: the table has no '{}'; it has {}", text, kernel, fmt::join(found, ", ")));
  }
  for (const std::string& kernel : preferred) {
    if (holds(kernel)) return kernel;
  }
  return "";
}

template <typename Rows>
std::vector<std::string> names_of(const Rows& rows) {
  std::vector<std::string> names;
  for (const auto& [name, of] : rows) names.push_back(name);
  return names;
}

}  // namespace

Plan plan_on_gpus(const Options& options, const char* option) {
  if (options.plan_paths().size() != 1) {
    throw UsageError(fmt::format(
        "calibrate: --{} takes one plan, whose cluster is of the device measured", option));
  }
  Plan plan = load_plan(options.plan_path());
  if (!plan.cluster.of_gpus()) {
    throw InputError(fmt::format("{}: --{} needs a plan on GPUs", plan.path, option));
  }
  return plan;
}

void add_table_options(Options& options) {
  options.values("from-tables",
                 "FILE",
                 "make a device's file of tables of measured kernels (CSV, one FILE each): "
                 "products,\nattention, collectives, dispatch and combine; see --judge-table");
  options.values("choose",
                 "TABLE=KERNEL",
                 "with --from-tables: which of a table's kernels counts, such as\n"
                 "products_fp8=fp8 or attention=triton");
  options.value("source", "TEXT", "with --from-tables: who published them, under what licence");
  options.value(
      "judge-table",
      "FILE",
      "how well a table of measured products (CSV: dtype,m,n,k,us), attention\n"
      "(kernel,batch,sequence,heads,kv_heads,head_dim,window,us), collectives\n"
      "(op,dtype,gpus,message,us), experts of a layer (kernel,dtype,tokens,hidden,\n"
      "intermediate,topk,experts,tp,ep,distribution,us) or dispatch and combine "
      "(hidden,tokens,topk,experts,\n"
      "dispatch_sms,dispatch_us,combine_sms,combine_us) on a device of the plan's cluster\n"
      "tells rows that are left out of it, whole families at a time");
  options.value("told-by",
                "DEVICE",
                "with --judge-table: tell its rows from this device's file instead (calibrate "
                "--from-tables),\nsuch as topologies/devices/h100.yaml");
}

int calibrate_from_tables(const Options& options) {
  const Plan plan = plan_on_gpus(options, "from-tables");
  if (!options.has("out")) {
    throw UsageError("calibrate: --from-tables writes a file and tables beside it: say --out FILE");
  }
  const fs::path out = options.text("out");
  const DeviceFacts facts = facts_of(plan.cluster);
  const std::string stem = out.stem().string();
  const auto beside = [&](std::string_view what) { return fmt::format("{}-{}.csv", stem, what); };
  std::vector<std::string> written;
  for (const char* what : {"products", "attention", "grouped", "collectives", "exchanges"}) {
    written.push_back((out.parent_path() / beside(what)).string());
  }
  options.check_outputs(written);
  const Cluster& c = plan.cluster;
  if (!c.node_link) throw InputError(plan.path + ": its cluster has no node_link");
  struct Made {
    std::string file, text;
  };
  std::vector<Made> made;
  std::string tables;
  std::string attention = "cuDNN";
  std::set<TableKind> seen;
  Report r;
  const auto add = [&](const std::string& key, const std::string& kernel, const std::string& file) {
    tables += kernel.empty() ? fmt::format("  {}: {{file: {}}}\n", key, file)
                             : fmt::format("  {}: {{file: {}, kernel: {}}}\n", key, file, kernel);
  };
  for (const std::string& path : options.texts("from-tables")) {
    const std::string text = read_file(path);
    const TableKind kind = kind_of_table(text, path);
    if (!seen.insert(kind).second) {
      throw InputError(fmt::format("{}: a second table of its kind", path));
    }
    const auto keep = [&](const char* what, std::string contents) {
      const std::string file = beside(what);
      made.push_back({file, std::move(contents)});
      return file;
    };
    switch (kind) {
      case TableKind::kProducts: {
        const auto rows = parse_product_table(text, path, facts);
        const std::string file = keep("products", print_products(text, path));
        const std::vector<std::string> names = names_of(rows);
        const std::string bf16 = chosen(options, "products_bf16", names, {"bfloat16"});
        const std::string fp8 = chosen(options, "products_fp8", names, {"fp8_block", "fp8"});
        if (!bf16.empty()) add("products_bf16", bf16, file);
        if (!fp8.empty()) add("products_fp8", fp8, file);
        break;
      }
      case TableKind::kAttention: {
        const auto rows = parse_attention_table(text, path, facts);
        const std::string file = keep("attention", text);
        const std::string kernel =
            chosen(options, "attention", names_of(rows), {"fa3", "flash_attention", "triton"});
        if (kernel.empty()) {
          throw InputError(
              fmt::format("{}: say which of its kernels counts: --choose "
                          "attention=KERNEL, of {}",
                          path,
                          fmt::join(names_of(rows), ", ")));
        }
        if (kernel == "flash_attention") attention = "FlashAttention-2";
        add("attention", kernel, file);
        break;
      }
      case TableKind::kGrouped:
        parse_grouped_table(text, path, facts);
        add("grouped", "", keep("grouped", text));
        break;
      case TableKind::kCollectives:
        parse_collective_table(text, path, c.node_link->bandwidth);
        add("collectives", "", keep("collectives", text));
        break;
      case TableKind::kExchanges:
        parse_exchange_table(text, path, facts);
        add("exchanges", "", keep("exchanges", text));
        break;
    }
  }
  std::vector<std::string> names;
  for (const std::string& path : options.texts("from-tables")) {
    names.push_back(fs::path(path).filename().string());
  }
  const std::string source =
      options.has("source") ? options.text("source") : fmt::format("{}", fmt::join(names, ", "));
  std::string rules{kRules};
  const bool hopper = facts.fp8;
  rules = replaced(rules,
                   "{sustained}",
                   hopper ? "{bf16: 0.84, fp8: 0.935, attention: 0.935, lengthy: 0.95}"
                          : "{bf16: 1, fp8: 1, attention: 1, lengthy: 1}");
  rules = replaced(rules, "{attention}", attention);
  rules = replaced(rules,
                   "{backward}",
                   attention == "cuDNN" ? "[64, 2.89, 128, 2.99, 192, 3.40, 256, 4.37]"
                                        : "[64, 2.76, 128, 2.73, 192, 2.73, 256, 2.95]");
  std::string text = fmt::format(
      "# A GPU by its measured kernels and by rules: `rehearse calibrate --from-tables`.\n"
      "format: rehearse-device 1\ndevice: {}\nsource: {}\nsms: {}\npeak_bf16: {:.6g} TFLOP/s\n",
      plain_or_quoted_yaml(stem),
      quoted_yaml(source),
      facts.sms,
      facts.peaks.bf16.value() * 1e-12);
  if (facts.fp8) text += fmt::format("peak_fp8: {:.6g} TFLOP/s\n", facts.peaks.fp8.value() * 1e-12);
  text += fmt::format("memory_bandwidth: {:.6g} TB/s\nnode_link: {:.6g} GB/s\ntables:\n{}{}",
                      facts.peaks.memory.value() * 1e-12,
                      c.node_link->bandwidth.value() * 1e-9,
                      tables,
                      rules);
  for (const Made& m : made) {
    const std::string path = (out.parent_path() / m.file).string();
    write_file(path, m.text);
    r.say(fmt::format("wrote {} ({} KB)\n", path, m.text.size() / 1000));
  }
  write_file(out.string(), text);
  const auto device = load_device(out.string());  // what was written is what is read
  r.say(fmt::format("wrote {}\n", out.string()));
  r.put("out", out.string());
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
