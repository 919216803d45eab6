#pragma once
// A GPU as tables of its measured kernels describe it, and by rules for what no table holds:
// backward passes, weight gradients, memory-bound work, launches, clocks under load. The rules'
// numbers stand in the device's file (topologies/devices/), each with its source.

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cost/op_kind.h"
#include "plan/plan.h"
#include "sim/price/kernel_tables.h"

namespace rehearse {

// Where a time comes from.
enum class Origin : uint8_t {
  kMeasured,      // at its very shape
  kInterpolated,  // from measured shapes near it
  kRuled,         // from measured work of another kind, by a stated rule
  kIdeal,         // flops over peak and bytes over bandwidth alone
};
inline constexpr NameTable kOrigins{
    std::to_array<Named<Origin>>({{Origin::kMeasured, "measured"},
                                  {Origin::kInterpolated, "interpolated"},
                                  {Origin::kRuled, "ruled"},
                                  {Origin::kIdeal, "ideal"}})};
static_assert(kOrigins.complete());

struct DeviceRules {
  // Speed of tensor work under hours of load, over that of the tables' runs: of BF16 products, of
  // FP8 ones, of attention; and of products so long that the clock had fallen in the tables
  // already.
  struct {
    double bf16 = 1, fp8 = 1, attention = 1, lengthy = 1;
  } sustained;
  // Attention's backward pass over its forward pass, by the width of a query's head.
  std::map<int64_t, double> attention_backward;
  // Grouped products over a dense one of all their rows: forward and of inputs, of weights.
  double grouped = 1, grouped_weight = 1;
  // Share of the memory bandwidth that a kind of work reaches, forward and backward.
  struct Shares {
    double forward = 1, backward = 1;
  };
  std::map<WorkKind, Shares> memory;
  // Of what stands outside layers: loss, and the embedding's table.
  Shares loss, embedding;
  Duration gap;  // between two kernels
  // What the host takes to launch a piece of work, and each group's product of a grouped one: an op
  // cannot be faster.
  Duration host, host_group;
  // How much slower tensor work is beside communication than its SMs account for.
  double contention = 1;
  // Standard deviations, in logarithms, of what a step's time is made of: by origin, and of all of
  // it (clocks, memory, software that differ from run to run).
  std::array<double, kOrigins.size()> errors{};
  double common = 0;
  // And of all ops of experts and their tokens' way, which hang on a framework's host and its
  // waits.
  double experts = 0;
  double host_error = 0;  // of what the host takes, which frameworks and machines make of it
  std::map<WorkKind, double> scale;  // what if a kind of work took so many times as long
  double scaled(WorkKind kind) const { return scale.contains(kind) ? scale.at(kind) : 1; }
};

class DeviceModel {
 public:
  struct Tables {
    std::optional<ProductTable> bf16, fp8;
    std::optional<AttentionTable> attention;
    std::optional<GroupedTable> grouped;
    std::optional<CollectiveTable> collectives;
    std::optional<ExchangeTable> exchanges;
    // Where the first three stand, and which of the kernels there they are.
    struct Source {
      std::string path, kernel;
    };
    Source of_bf16, of_fp8, of_attention;
  };
  DeviceModel(DeviceFacts facts, std::string source, Tables tables, DeviceRules rules);

  struct Answer {
    Duration time;  // alone, on all SMs
    Origin origin = Origin::kIdeal;
  };
  // Of one piece of an op's work. Thread-safe.
  Answer time(OpKind op, Pass pass, const GpuTask& task) const;

  const DeviceFacts& facts() const { return facts_; }
  const std::string& source() const { return source_; }
  const Tables& tables() const { return tables_; }
  const DeviceRules& rules() const { return rules_; }

 private:
  Answer product(const GpuTask& task) const;
  Answer attention(Pass pass, const GpuTask& task) const;
  Answer streamed(OpKind op, Pass pass, const GpuTask& task) const;

  DeviceFacts facts_;
  std::string source_;
  Tables tables_;
  DeviceRules rules_;
  using Key = std::tuple<Format, int64_t, int64_t, int64_t>;
  // What was asked before, of the tables.
  mutable std::shared_mutex mutex_;
  mutable std::map<Key, Answer> products_;
  mutable std::map<AttentionShape, Answer> cores_;
};

// The same device, on which work of a kind takes `factor` times as long (what if). Throws
// InputError for waiting, which follows from the ranks.
std::shared_ptr<const DeviceModel> scaled(const DeviceModel& device, WorkKind kind, double factor);

// Puts what an SM copies for an all-to-all, where that was measured, into the plan's cluster: what
// it sends and what it receives.
void use_copy_rate(Plan& plan, const DeviceModel& device);

// Reads a device's file and the tables it names, which lie beside it. Throws InputError.
std::shared_ptr<const DeviceModel> load_device(const std::string& path);
std::shared_ptr<const DeviceModel> parse_device(std::string text, const std::string& path);
bool is_device(std::string_view text);  // by its format line
// The file of the device that the cluster's GPUs are, by peaks, memory bandwidth and SMs, among
// those that come with the program; none: there is no such file.
std::optional<std::string> shipped_device(const Cluster& cluster);

}  // namespace rehearse
