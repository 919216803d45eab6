// rehearse calibrate --judge-table: how well tables of measured kernels tell rows that are not in
// them, or not any more.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/file.h"
#include "cli/calibrate_tables.h"
#include "cli/report.h"
#include "sim/price/device.h"

namespace rehearse::cli {
namespace {

// Shorter rows are a matter of launches, not of kernels.
constexpr auto kLasting = [](const auto& row) { return row.time >= Duration::microseconds(50); };
constexpr auto kAll = [](const auto&) { return true; };

// A table that is judged, and what judges it: a device's tables, else its own other rows.
class Judgement {
 public:
  Judgement(std::string path, const Cluster& cluster, std::shared_ptr<const DeviceModel> device)
      : path_(std::move(path)),
        text_(read_file(path_)),
        cluster_(cluster),
        facts_(facts_of(cluster)),
        device_(std::move(device)) {}

  Report report(const std::string& told_by) {
    report_.say(fmt::format("{}: rows of at least 50 us, each told from {}\n\n",
                            path_,
                            device_ ? told_by : "other families' alone"));
    told_by_ = told_by;
    switch (kind_of_table(text_, path_)) {
      case TableKind::kAttention:
        attention();
        break;
      case TableKind::kProducts:
        products();
        break;
      case TableKind::kGrouped:
        grouped();
        break;
      case TableKind::kCollectives:
        collectives();
        break;
      case TableKind::kExchanges:
        exchanges();
        break;
    }
    finish();
    return std::move(report_);
  }

 private:
  struct Name {
    std::string kernel;
    const char* family;  // what rows of one family have in common
  };

  // Rows of a kernel are told from the same kernel's, whether or not the device is priced by it.
  void attention() {
    const auto& from = device_ ? device_->tables().of_attention.path : path_;
    if (device_ && !device_->tables().attention) missing("attention");
    const auto own = parse_attention_table(text_, path_, facts_);
    const auto others = device_ ? parse_attention_table(read_file(from), from, facts_) : own;
    for (const auto& [kernel, rows] : own) {
      const AttentionTable table(of_kernel(others, kernel, from), facts_.peaks, cluster_.sms);
      put({"attention, " + kernel, "heads, key-value heads"}, table, rows, kAll, kLasting);
    }
  }

  void products() {
    const auto own = parse_product_table(text_, path_, facts_);
    for (const auto& [dtype, rows] : own) {
      const Format format = format_of_table(dtype);
      std::string from = path_;
      if (device_) {
        const DeviceModel::Tables& tables = device_->tables();
        from = (format == Format::kFp8 ? tables.of_fp8 : tables.of_bf16).path;
        if (from.empty()) missing("such products");
      }
      const auto others = device_ ? parse_product_table(read_file(from), from, facts_) : own;
      const ProductTable table(of_kernel(others, dtype, from), format, facts_.peaks, cluster_.sms);
      put({"product, " + dtype, "n, k"}, table, rows, kAll, kLasting);
    }
  }

  void grouped() {
    const auto rows = parse_grouped_table(text_, path_, facts_);
    if (device_ && !device_->tables().grouped) missing("grouped products");
    const GroupedTable table =
        device_ ? *device_->tables().grouped : GroupedTable(rows, facts_.peaks);
    for (const Format format : {Format::kBf16, Format::kFp8}) {
      put(
          {fmt::format("experts of a layer, {}", name_of(format)), "model"},
          table,
          rows,
          [&](const auto& row) { return row.call.format == format; },
          kLasting);
    }
  }

  void collectives() {
    const BytesPerSecond link =
        cluster_.node_link ? cluster_.node_link->bandwidth : BytesPerSecond(1e12);
    const auto rows = parse_collective_table(text_, path_, link);
    if (device_ && !device_->tables().collectives) missing("collectives");
    const CollectiveTable table =
        device_ ? *device_->tables().collectives : CollectiveTable(rows, link);
    put({"collectives from 1 MB", "size"}, table, rows, kAll, [](const auto& row) {
      return row.call.size >= Bytes(1'000'000);
    });
  }

  void exchanges() {
    const auto rows = parse_exchange_table(text_, path_, facts_);
    if (device_ && !device_->tables().exchanges) missing("dispatch and combine");
    const ExchangeTable table = device_ ? *device_->tables().exchanges : ExchangeTable(rows);
    for (const bool dispatch : {true, false}) {
      put(
          {dispatch ? "dispatch" : "combine", "SMs"},
          table,
          rows,
          [&](const auto& row) { return row.call.dispatch == dispatch; },
          kLasting);
    }
  }

  [[noreturn]] void missing(const char* what) const {
    throw InputError(fmt::format("{}: has no table of {}", told_by_, what));
  }

  // Those of one kernel, of a table with several.
  template <typename Rows>
  static const typename Rows::mapped_type& of_kernel(const Rows& rows,
                                                     const std::string& kernel,
                                                     const std::string& path) {
    const auto found = rows.find(kernel);
    if (found == rows.end()) {
      throw InputError(fmt::format("{}: has no rows of '{}' to tell such from", path, kernel));
    }
    return found->second;
  }

  // The rows of a kind, of which those that `picks` takes are judged.
  template <typename Table, typename Kind, typename Picks>
  void put(const Name& name,
           const Table& table,
           const typename Table::Rows& rows,
           Kind kind,
           Picks picks) {
    const auto judged = [&](const auto& row) { return kind(row) && picks(row); };
    TableErrors errors;
    if (device_) {
      errors = table.judge(judged, rows);
    } else if (const size_t families = table.families(kind); families > 1) {
      errors = table.judge(judged);
    } else if (families == 1) {
      of_one_family_.push_back(fmt::format("{} ({})", name.kernel, name.family));
    }
    show(name, static_cast<size_t>(std::ranges::count_if(rows, kind)), errors);
  }

  // Of no rows there is no error to show.
  void show(const Name& name, size_t rows, const TableErrors& e) {
    const auto percent_of = [&](double x) {
      return e.rows > 0 ? fmt::format("{:.1f}%", 100 * x) : "-";
    };
    shown_.row({name.kernel,
                name.family,
                rows,
                e.rows,
                percent_of(e.mean_absolute),
                percent_of(e.percentile_95),
                percent_of(e.bias)});
    Report& of = report_.item("kernels");
    of.put("kernel", name.kernel);
    of.put("family", name.family);
    of.put("rows", rows);
    of.put("judged", e.rows);
    judged_ += e.rows;
    if (e.rows == 0) return;
    of.put("mean_absolute_error", e.mean_absolute);
    of.put("percentile_95_error", e.percentile_95);
    of.put("bias", e.bias);
  }

  void finish() {
    report_.table("", std::move(shown_));
    if (of_one_family_.empty()) return;
    const std::string why = fmt::format(
        "a table of one family cannot be judged by leaving families out, and all rows of {} are of "
        "one; add rows of others, or tell these from a device's file (--told-by)",
        fmt::join(of_one_family_, "; "));
    if (judged_ == 0) throw InputError(fmt::format("{}: {}", path_, why));
    report_.say(fmt::format("not judged: {}\n", why));
    report_.put("not_judged", why);
  }

  std::string path_, text_, told_by_;
  const Cluster& cluster_;
  DeviceFacts facts_;
  std::shared_ptr<const DeviceModel> device_;
  Report report_;
  Report::Table shown_{.columns = {{"", "kernel"},
                                   {"", "family"},
                                   {"", "rows"},
                                   {"", "judged"},
                                   {"", "mean absolute error"},
                                   {"", "95%"},
                                   {"", "bias"}}};
  int64_t judged_ = 0;
  std::vector<std::string> of_one_family_;
};

}  // namespace

int judge_table(const Options& options) {
  const Plan plan = plan_on_gpus(options, "judge-table");
  options.refuse({"out"}, "is for calibrations; --judge-table only reads");
  const std::string told_by = options.has("told-by") ? options.text("told-by") : "";
  Judgement judgement(
      options.text("judge-table"), plan.cluster, told_by.empty() ? nullptr : load_device(told_by));
  options.print(judgement.report(told_by));
  return 0;
}

}  // namespace rehearse::cli
