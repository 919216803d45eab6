#include "sim/price/kernel_tables.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/numbers.h"
#include "base/text.h"
#include "cost/layer.h"

namespace rehearse {
namespace {

constexpr double kLongest = 60e6;  // microseconds that a row may state

double peak_of(const DeviceFacts& device, Format format) {
  return (format == Format::kFp8 ? device.peaks.fp8 : device.peaks.bf16).value();
}
std::string peak_name(const DeviceFacts& device) {
  return fmt::format("the peak of '{}'", device.name);
}
std::string memory_name(const DeviceFacts& device) {
  return fmt::format("the memory bandwidth of '{}'", device.name);
}

constexpr auto kDtypes = std::to_array<std::string_view>({"bfloat16", "fp8", "fp8_block"});

// Rows of a comma-separated file by the names of their columns.
class Table {
 public:
  Table(const std::string& text, std::string path, const std::vector<std::string_view>& columns)
      : text_(text), path_(std::move(path)) {
    if (!next()) fail("is empty; expected a line of column names first");
    const std::vector<std::string_view> names = cells_;
    for (const std::string_view c : columns) {
      const auto at = std::ranges::find(names, c);
      if (at == names.end()) {
        fail(fmt::format("has no column '{}'; expected {}", c, fmt::join(columns, ",")));
      }
      columns_.push_back(static_cast<size_t>(at - names.begin()));
    }
    width_ = names.size();
  }
  // False behind the last row.
  bool next_row() {
    if (!next()) return false;
    if (cells_.size() != width_) {
      fail(fmt::format(
          "has {} values for {} columns: was the file cut off?", cells_.size(), width_));
    }
    return true;
  }
  std::string text(size_t column) const { return std::string(cells_[columns_[column]]); }
  double number(size_t column, std::string_view name, double least, double most) const {
    const auto value = number_of(text(column));
    if (!value || !(*value >= least && *value <= most)) {
      fail(fmt::format("{}: expected a number from {} to {}, found '{}'",
                       name,
                       least,
                       most,
                       whole_characters(text(column), 40)));
    }
    return *value;
  }
  int64_t integer(size_t column, std::string_view name) const {
    constexpr double kMost = 1e9;
    const double value = number(column, name, 1, kMost);
    if (value != static_cast<double>(static_cast<int64_t>(value))) {
      fail(fmt::format("{}: expected a whole number, found '{}'", name, text(column)));
    }
    return static_cast<int64_t>(value);
  }
  // No kernel does more per second than its device can; value: as the row has it.
  void require_possible(const std::string& value,
                        double rate,
                        double most,
                        const std::string& of_what) const {
    if (rate <= most) return;
    fail(
        fmt::format("us: {} is {:.4g} per second, above {} of {:.4g}: it is of another device, or "
                    "in another unit",
                    value,
                    rate,
                    of_what,
                    most));
  }
  // And some kernel of a table comes near it; best: share of it.
  void require_near(double best, double least, const std::string& of_what) const {
    if (best >= least) return;
    throw InputError(
        fmt::format("{}: no row reaches more than {:.2g}% of {}: the times are of "
                    "another device, or in another unit",
                    path_,
                    100 * best,
                    of_what));
  }
  [[noreturn]] void fail(const std::string& why) const {
    throw InputError(fmt::format("{}:{}: {}", path_, std::max<int64_t>(1, line_), why));
  }

 private:
  bool next() {
    if (at_ >= text_.size()) return false;
    const size_t end = std::min(text_.find('\n', at_), text_.size());
    std::string_view line(text_.data() + at_, end - at_);
    at_ = end + 1;
    ++line_;
    if (line.ends_with('\r')) line.remove_suffix(1);
    cells_.clear();
    for (;;) {
      const size_t comma = line.find(',');
      cells_.push_back(line.substr(0, comma));
      if (comma == std::string_view::npos) break;
      line = line.substr(comma + 1);
    }
    return true;
  }

  const std::string& text_;
  std::string path_;
  size_t at_ = 0;
  int64_t line_ = 0;
  std::vector<std::string_view> cells_;
  std::vector<size_t> columns_;
  size_t width_ = 0;
};

}  // namespace

DeviceFacts facts_of(const Cluster& c) {
  return {.name = c.name,
          .peaks = {c.peak, c.peak_fp8.value_or(c.peak), c.memory_bandwidth},
          .fp8 = c.peak_fp8.has_value(),
          .sms = c.sms,
          .node_link = c.node_link ? c.node_link->bandwidth : BytesPerSecond()};
}

TableKind kind_of_table(const std::string& text, const std::string& path) {
  const std::string names = text.substr(0, text.find('\n'));
  const auto has = [&](std::string_view name) {
    return ("," + names + ",").find("," + std::string(name) + ",") != std::string::npos ||
           names.find(std::string(name) + "\r") != std::string::npos;
  };
  if (has("kv_heads")) return TableKind::kAttention;
  if (has("dispatch_sms")) return TableKind::kExchanges;
  if (has("intermediate")) return TableKind::kGrouped;
  if (has("message")) return TableKind::kCollectives;
  if (has("m") && has("n") && has("k")) return TableKind::kProducts;
  throw InputError(fmt::format(
      "{}:1: is no table of kernels; expected a line of column names first: dtype,m,n,k,us or "
      "kernel,batch,sequence,heads,kv_heads,head_dim,window,us or "
      "kernel,dtype,tokens,hidden,intermediate,topk,experts,tp,ep,distribution,us or "
      "op,dtype,gpus,message,us or "
      "hidden,tokens,topk,experts,dispatch_sms,dispatch_us,combine_sms,combine_us; found '{}'",
      path,
      whole_characters(names, 100)));
}

GroupedTable::Rows parse_grouped_table(const std::string& text,
                                       const std::string& path,
                                       const DeviceFacts& device) {
  Table table(text,
              path,
              {"kernel",
               "dtype",
               "tokens",
               "hidden",
               "intermediate",
               "topk",
               "experts",
               "tp",
               "ep",
               "distribution",
               "us"});
  GroupedTable::Rows rows;
  double best = 0;  // share of the peak
  while (table.next_row()) {
    GroupedCall c{.kernel = table.text(0),
                  .tokens = table.integer(2, "tokens"),
                  .hidden = table.integer(3, "hidden"),
                  .intermediate = table.integer(4, "intermediate"),
                  .top_k = table.integer(5, "topk"),
                  .experts = table.integer(6, "experts"),
                  .tp = table.integer(7, "tp"),
                  .ep = table.integer(8, "ep")};
    const std::string dtype = table.text(1);
    if (dtype != "bfloat16" && dtype != "fp8_block") {
      table.fail(fmt::format("dtype: expected bfloat16 or fp8_block, found '{}'",
                             whole_characters(dtype, 40)));
    }
    c.format = format_of_table(dtype);
    if (c.experts % c.ep != 0 || c.top_k > c.experts || c.intermediate % c.tp != 0) {
      table.fail(
          fmt::format("{} experts of width {}, {} of them chosen, do not divide over ep {} "
                      "and tp {}",
                      c.experts,
                      c.intermediate,
                      c.top_k,
                      c.ep,
                      c.tp));
    }
    const std::string distribution = table.text(9);
    constexpr std::string_view kPower = "power_law_";
    if (distribution.starts_with(kPower)) {
      const auto skew = number_of(distribution.substr(kPower.size()));
      if (!skew || *skew < 0) table.fail("distribution: expected power_law_ and an exponent");
      c.skew = *skew;
    } else if (distribution != "balanced") {
      table.fail(
          fmt::format("distribution: expected balanced or power_law_1.2 and the like, "
                      "found '{}'",
                      whole_characters(distribution, 40)));
    }
    c.gated = !c.kernel.ends_with("nongated") && c.kernel != "sglang_flashinfer_cutlass_moe";
    const double seconds = table.number(10, "us", 1, kLongest) * 1e-6;
    const double peak = peak_of(device, c.format);
    const double rate = expert_flops(c) / seconds;
    table.require_possible(table.text(10), rate, peak, peak_name(device));
    best = std::max(best, rate / peak);
    rows.push_back({std::move(c), Duration::seconds(seconds)});
  }
  if (rows.empty()) table.fail("has no rows");
  table.require_near(best, 0.05, peak_name(device));
  return rows;
}

CollectiveTable::Rows parse_collective_table(const std::string& text,
                                             const std::string& path,
                                             BytesPerSecond link) {
  Table table(text, path, {"op", "dtype", "gpus", "message", "us"});
  CollectiveTable::Rows rows;
  double best = 0;  // share of the link
  while (table.next_row()) {
    CollectiveCall c;
    const auto kind = kCollectiveKinds.find(table.text(0));
    if (!kind) {
      table.fail(fmt::format("op: expected one of {}, found '{}'",
                             kCollectiveKinds.list(),
                             whole_characters(table.text(0), 40)));
    }
    c.kind = *kind;
    const std::string dtype = table.text(1);
    if (dtype != "half" && dtype != "int8") {
      table.fail(
          fmt::format("dtype: expected half or int8, found '{}'", whole_characters(dtype, 40)));
    }
    c.ranks = static_cast<int64_t>(table.number(2, "gpus", 2, 1e6));
    constexpr double kMost = 1e12;
    c.size = Bytes(static_cast<int64_t>(table.number(3, "message", 1, kMost)) *
                   (dtype == "half" ? 2 : 1));
    constexpr double kShortest = 1e-1;
    const Duration time = Duration::microseconds(table.number(4, "us", kShortest, kLongest));
    const double rate = sent_bytes(c) / time.seconds();
    // An all-reduce that switches sum up sends its input once.
    table.require_possible(table.text(4), rate, 2 * link.value(), "twice the links' rate,");
    best = std::max(best, rate / link.value());
    rows.push_back({c, time});
  }
  if (rows.empty()) table.fail("has no rows");
  table.require_near(best, 0.1, fmt::format("links of {}", to_string(link)));
  return rows;
}

ExchangeTable::Rows parse_exchange_table(const std::string& text,
                                         const std::string& path,
                                         const DeviceFacts& device) {
  Table table(text,
              path,
              {"hidden",
               "tokens",
               "topk",
               "experts",
               "dispatch_sms",
               "dispatch_us",
               "combine_sms",
               "combine_us"});
  ExchangeTable::Rows rows;
  while (table.next_row()) {
    ExchangeCall c{.hidden = table.integer(0, "hidden"),
                   .tokens = table.integer(1, "tokens"),
                   .top_k = table.integer(2, "topk"),
                   .experts = table.integer(3, "experts")};
    constexpr int64_t kRanks = 8;
    if (c.experts % kRanks != 0 || c.top_k > c.experts) {
      table.fail(fmt::format("experts: {} of which {} are chosen do not divide over {} ranks",
                             c.experts,
                             c.top_k,
                             kRanks));
    }
    for (const bool dispatch : {true, false}) {
      c.dispatch = dispatch;
      const size_t at = dispatch ? 4 : 6;
      c.sms = table.integer(at, dispatch ? "dispatch_sms" : "combine_sms");
      if (c.sms > device.sms) {
        table.fail(fmt::format("{} SMs of a device of {}", c.sms, device.sms));
      }
      const double us = table.number(at + 1, dispatch ? "dispatch_us" : "combine_us", 1, kLongest);
      // Every token comes from memory at least once.
      table.require_possible(table.text(at + 1),
                             static_cast<double>(c.tokens * c.hidden) / (us * 1e-6),
                             device.peaks.memory.value(),
                             memory_name(device));
      rows.push_back({c, Duration::microseconds(us)});
    }
  }
  if (rows.empty()) table.fail("has no rows");
  return rows;
}

std::string print_products(const std::string& text, const std::string& path) {
  Table table(text, path, {"dtype", "m", "n", "k", "us"});
  constexpr int64_t kRows = 64;
  constexpr double kShortest = 10;
  std::string out = "dtype,m,n,k,us\n";
  while (table.next_row()) {
    const double us = table.number(4, "us", 0, 1e9);
    if (table.integer(1, "m") < kRows || us < kShortest) continue;
    out += fmt::format(
        "{},{},{},{},{:.4g}\n", table.text(0), table.text(1), table.text(2), table.text(3), us);
  }
  return out;
}

std::map<std::string, AttentionTable::Rows> parse_attention_table(const std::string& text,
                                                                  const std::string& path,
                                                                  const DeviceFacts& device) {
  Table table(
      text, path, {"kernel", "batch", "sequence", "heads", "kv_heads", "head_dim", "window", "us"});
  std::map<std::string, std::map<AttentionShape, double>> seconds;
  double best = 0;  // share of the peak
  while (table.next_row()) {
    const std::string kernel = table.text(0);
    if (kernel.empty()) table.fail("kernel: expected a name");
    AttentionShape s{.batch = table.integer(1, "batch"),
                     .sequence = table.integer(2, "sequence"),
                     .heads = table.integer(3, "heads"),
                     .kv_heads = table.integer(4, "kv_heads"),
                     .qk = table.integer(5, "head_dim"),
                     .window = static_cast<int64_t>(table.number(6, "window", 0, 1e9))};
    s.v = s.qk == 192 ? 128 : s.qk;
    if (s.heads % s.kv_heads != 0) {
      table.fail(fmt::format("kv_heads: {} do not divide {} heads", s.kv_heads, s.heads));
    }
    const double time = table.number(7, "us", 1e-3, kLongest) * 1e-6;
    const double rate = attention_flops(s) / time;
    table.require_possible(table.text(7), rate, device.peaks.bf16.value(), peak_name(device));
    best = std::max(best, rate / device.peaks.bf16.value());
    const auto [at, fresh] = seconds[kernel].emplace(s, time);
    if (!fresh && s.window == 0) {
      table.fail(fmt::format("a second time of the same shape of {}", kernel));
    }
    if (!fresh) at->second = std::min(at->second, time);
  }
  if (seconds.empty()) table.fail("has no rows");
  table.require_near(best, 0.05, peak_name(device));
  std::map<std::string, AttentionTable::Rows> rows;
  for (const auto& [kernel, shapes] : seconds) {
    for (const auto& [shape, time] : shapes) {
      rows[kernel].push_back({shape, Duration::seconds(time)});
    }
  }
  return rows;
}

Format format_of_table(const std::string& dtype) {
  return dtype == "bfloat16" ? Format::kBf16 : Format::kFp8;
}

std::map<std::string, ProductTable::Rows> parse_product_table(const std::string& text,
                                                              const std::string& path,
                                                              const DeviceFacts& device) {
  Table table(text, path, {"dtype", "m", "n", "k", "us"});
  std::map<std::string, ProductTable::Rows> products;
  std::set<std::pair<std::string, ProductCall>> seen;
  std::map<std::string, double> best;  // share of the peak
  while (table.next_row()) {
    const std::string dtype = table.text(0);
    if (std::ranges::find(kDtypes, dtype) == kDtypes.end()) {
      table.fail(fmt::format("dtype: expected one of {}, found '{}'",
                             fmt::join(kDtypes, ", "),
                             whole_characters(dtype, 40)));
    }
    const ProductCall p{
        .m = table.integer(1, "m"), .n = table.integer(2, "n"), .k = table.integer(3, "k")};
    if (!seen.emplace(dtype, p).second) {
      table.fail(fmt::format("a second time of {} {} x {} x {}", dtype, p.m, p.n, p.k));
    }
    double seconds = table.number(4, "us", 1e-3, kLongest) * 1e-6;
    const Format format = format_of_table(dtype);
    if (format == Format::kFp8) {
      if (!device.fp8)
        table.fail(fmt::format("dtype: {}, and '{}' has no FP8", dtype, device.name));
      // Read in BF16, written in FP8; at least half of the time is the product's.
      const double cast =
          3 * static_cast<double>(p.m) * static_cast<double>(p.k) / device.peaks.memory.value();
      seconds = std::max(seconds - cast, seconds / 2);
    }
    const GpuTask task = product_task(Family::kDense, format, 1, p.m, p.n, p.k);
    const double rate = task.flops.count() / seconds;
    table.require_possible(table.text(4), rate, peak_of(device, format), peak_name(device));
    // What no cache holds comes from memory, at most at its rate.
    constexpr double kBeyondCaches = 200e6;
    const auto moved = static_cast<double>(task.bytes.count());
    if (moved > kBeyondCaches) {
      table.require_possible(
          table.text(4), moved / seconds, device.peaks.memory.value(), memory_name(device));
    }
    best[dtype] = std::max(best[dtype], rate / peak_of(device, format));
    products[dtype].push_back({p, Duration::seconds(seconds)});
  }
  if (products.empty()) table.fail("has no rows");
  for (const auto& [dtype, share] : best) {
    // The best of a whole table come to half of the peak and more; a few rows need not.
    constexpr size_t kWhole = 1000;
    const double least = products.at(dtype).size() >= kWhole ? 0.4 : 0.1;
    table.require_near(share, least, fmt::format("{}, in {}", peak_name(device), dtype));
  }
  return products;
}

}  // namespace rehearse
