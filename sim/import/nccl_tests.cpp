#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/numbers.h"
#include "base/text.h"
#include "sim/import/link_benchmarks.h"
#include "sim/import/log_lines.h"

namespace rehearse {
namespace {

struct Row {
  double bytes = 0, seconds = 0;
};

// A relative least-squares fit of seconds = fixed + bytes x slope, neither below 0.
struct Fit {
  double fixed = 0, slope = 0, error = 0;
};
Fit fit(const std::vector<Row>& rows) {
  // Columns are divided by each time, so that all relative errors weigh the same.
  double aa = 0, ab = 0, bb = 0, a1 = 0, b1 = 0;
  for (const Row& r : rows) {
    const double a = 1 / r.seconds;
    const double b = r.bytes / r.seconds;
    aa += a * a;
    ab += a * b;
    bb += b * b;
    a1 += a;
    b1 += b;
  }
  Fit f;
  const double determinant = aa * bb - ab * ab;
  if (determinant > 1e-12 * aa * bb) {
    f.fixed = (a1 * bb - b1 * ab) / determinant;
    f.slope = (b1 * aa - a1 * ab) / determinant;
  }
  if (determinant <= 1e-12 * aa * bb || f.fixed < 0) f = {0, b1 / bb, 0};
  if (f.slope <= 0) f = {a1 / aa, 0, 0};
  double squares = 0;
  for (const Row& r : rows) {
    const double e = (f.fixed + f.slope * r.bytes) / r.seconds - 1;
    squares += e * e;
  }
  f.error = std::sqrt(squares / static_cast<double>(rows.size()));
  return f;
}

// "NVIDIA H100 80GB HBM3" and "NVIDIA H100" are both H100s.
std::string model_of(const std::string& device) {
  for (const std::string& word : words_of(device)) {
    const std::string model = word.substr(0, word.find('-'));
    if (std::any_of(model.begin(), model.end(), [](unsigned char c) { return std::isdigit(c); })) {
      return model;
    }
  }
  return device;
}

// nccl-tests' bus bandwidth over its algorithm bandwidth (its PERFORMANCE.md).
std::optional<double> bus_factor(const std::string& test, int64_t ranks) {
  const auto n = static_cast<double>(ranks);
  if (test == "all_reduce") return 2 * (n - 1) / n;
  if (test == "all_gather" || test == "reduce_scatter" || test == "alltoall" || test == "gather" ||
      test == "scatter") {
    return (n - 1) / n;
  }
  if (test == "broadcast" || test == "reduce" || test == "sendrecv") return 1;
  return std::nullopt;
}

// Reads one run of nccl-tests.
class NcclReader {
 public:
  NcclReader(const std::string& text, const std::string& path, const LinkTarget& target)
      : path_(path), target_(target), lines_(lines_of(text)) {}

  LinkBenchmark read() {
    for (const LogLine& line : lines_) read_line(line);
    require_whole();
    return measured();
  }

 private:
  struct Rank {
    int64_t line = 0;
    std::string host, device;
  };

  [[noreturn]] void refuse(int64_t line, const std::string& why) const {
    throw InputError(fmt::format("{}:{}: {}", path_, line, why));
  }
  [[noreturn]] void refuse(const std::string& why) const { throw InputError(path_ + ": " + why); }

  void read_line(const LogLine& line) {
    const std::string& s = line.text;
    if (const size_t end = s.find("_perf"); test_.empty() && end != std::string::npos) {
      size_t begin = end;
      while (begin > 0 &&
             (std::islower(static_cast<unsigned char>(s[begin - 1])) != 0 || s[begin - 1] == '_')) {
        --begin;
      }
      test_ = s.substr(begin, end - begin);
    }
    if (s.find("NCCL_ALGO=Ring") != std::string::npos) rings_ = true;
    if (s.find("NCCL_TESTS_SPLIT") != std::string::npos) {
      refuse(line.number,
             "NCCL_TESTS_SPLIT splits the ranks into groups that run side by side; "
             "measure without it");
    }
    if (s.find("Test NCCL failure") != std::string::npos ||
        s.find("Test CUDA failure") != std::string::npos ||
        s.find("NCCL error") != std::string::npos) {
      refuse(line.number, "the run failed: '" + shown(s) + "'");
    }
    const std::vector<std::string> words = words_of(s);
    if (words.empty()) return;
    if (words[0] == "#" && words.size() > 3 && words[1] == "Rank") return read_rank(line, words);
    if (words[0] == "#" && std::find(words.begin(), words.end(), "algbw") != words.end()) {
      return read_header(line, {words.begin() + 1, words.end()});
    }
    if (words[0] == "#" && words.size() > 1 && words[1].front() == '(')
      return read_units(line, words);
    if (s.find("Out of bounds values") != std::string::npos) return read_verdict(line, words);
    if (number_of(words[0]) && words.size() > 1 && number_of(words[1]))
      return read_row(line, words);
  }

  // "#  Rank  0 Group  0 Pid 1234 on host7 device  0 [0x18] NVIDIA H800"
  void read_rank(const LogLine& line, const std::vector<std::string>& words) {
    one_process(line);
    if (!rows_.empty()) refuse(line.number, "a second run begins here: one run per file");
    const auto value_of = [&](const char* key) -> std::string {
      const auto at = std::find(words.begin(), words.end(), key);
      return at == words.end() || at + 1 == words.end() ? "" : *(at + 1);
    };
    const std::optional<double> rank = number_of(words[2]);
    const std::string host = value_of("on");
    const std::optional<double> device = number_of(value_of("device"));
    if (!rank || *rank < 0 || host.empty() || !device) {
      refuse(line.number, "expected '#  Rank N Group G Pid P on HOST device D [...] NAME'");
    }
    if (const std::string group = value_of("Group"); !group.empty() && group != "0") {
      refuse(line.number,
             "rank " + words[2] + " is in group " + group +
                 ": groups run side by side and share links; measure with one");
    }
    const auto number_of = static_cast<int64_t>(*rank);
    const std::string seat = host + " device " + value_of("device");
    const auto [known, is_new] = ranks_.try_emplace(number_of);
    if (!is_new) {
      refuse(
          line.number,
          fmt::format("rank {} is listed a second time (first in line {}, on {}): several runs in "
                      "one file, or a test built without MPI=1, whose processes do not know of "
                      "each other",
                      number_of,
                      known->second.line,
                      known->second.host));
    }
    const auto bracket = std::find_if(
        words.begin(), words.end(), [](const std::string& w) { return w.front() == '['; });
    std::string name;
    for (auto w = bracket; w != words.end(); ++w) {
      if (w != bracket) name += (name.empty() ? "" : " ") + *w;
    }
    known->second = {line.number, host, name};
    if (!seats_.insert(seat).second) {
      refuse(line.number, seat + " holds two ranks: they share its links");
    }
    if (name != ranks_.begin()->second.device) {
      refuse(line.number,
             fmt::format("a device '{}' among '{}': links of one kind are measured at a time",
                         name,
                         ranks_.begin()->second.device));
    }
    ++on_host_[host];
  }

  void read_header(const LogLine& line, const std::vector<std::string>& columns) {
    one_process(line);
    if (!columns_.empty()) refuse(line.number, "a second run begins here: one run per file");
    static const std::set<std::string> kKnown = {
        "size", "count", "type", "redop", "root", "time", "algbw", "busbw", "#wrong", "error"};
    for (const std::string& c : columns) {
      if (!kKnown.contains(c)) {
        refuse(line.number,
               fmt::format(
                   "a column '{}', which is not understood; expected size, count, type, redop, "
                   "root, time, algbw, busbw, #wrong",
                   shown(c)));
      }
    }
    columns_ = columns;
    for (const char* needed : {"size", "time", "algbw", "busbw"}) {
      if (column(needed) == columns_.size()) {
        refuse(line.number, fmt::format("no column '{}'", needed));
      }
    }
  }

  void read_units(const LogLine& line, const std::vector<std::string>& words) {
    static const std::set<std::string> kKnown = {"(B)", "(elements)", "(us)", "(GB/s)"};
    for (size_t i = 1; i < words.size(); ++i) {
      if (!kKnown.contains(words[i])) {
        refuse(line.number,
               "a unit '" + shown(words[i]) + "'; expected (B), (elements), (us) and (GB/s)");
      }
    }
  }

  void read_row(const LogLine& line, const std::vector<std::string>& words) {
    one_process(line);
    if (columns_.empty()) {
      refuse(line.number,
             "figures without the header line '# size count type redop root time ...'");
    }
    // Versions differ in whether redop and root are printed where a test has none.
    if (words.size() < columns_.size()) {
      refuse(line.number,
             fmt::format(
                 "{} of {} columns: cut off, or two lines in one", words.size(), columns_.size()));
    }
    if (words.size() > columns_.size()) {
      refuse(line.number,
             fmt::format("{} figures under {} columns: '{}'",
                         words.size(),
                         columns_.size(),
                         shown(line.text)));
    }
    const auto at = [&](const char* name) {
      const std::optional<double> value = number_of(words[column(name)]);
      if (!value) {
        refuse(line.number, fmt::format("{} is '{}', no number", name, shown(words[column(name)])));
      }
      return *value;
    };
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i] != "#wrong" && columns_[i] != "error") continue;
      const std::optional<double> wrong = number_of(words[i]);
      if (wrong && *wrong > 0 && columns_[i] == "#wrong") {
        refuse(line.number, fmt::format("{} wrong values: the run's own check failed", words[i]));
      }
    }
    const double size = at("size");
    const double us = at("time");
    const double algorithm = at("algbw");
    const double bus = at("busbw");
    if (size < 0 || us < 0 || algorithm < 0 || bus < 0) refuse(line.number, "a negative figure");
    if (const auto known = sizes_.find(size); known != sizes_.end()) {
      refuse(
          line.number,
          fmt::format("size {} is listed a second time (first in line {}): several runs or cycles "
                      "in one file",
                      words[column("size")],
                      known->second));
    }
    sizes_.emplace(size, line.number);
    if (size == 0 || (algorithm == 0 && us < 100)) return;  // too short to tell
    // Figures are printed with two decimals, times with two or fewer.
    constexpr double kRounding = 0.01;
    constexpr double kGigabytes = 0.02;
    if (us == 0 || std::abs(size / us * 1e-3 - algorithm) > kRounding * algorithm + kGigabytes) {
      refuse(line.number,
             fmt::format("{} bytes in {} us are not {} GB/s: other units, or two lines in one",
                         words[column("size")],
                         words[column("time")],
                         words[column("algbw")]));
    }
    rows_.push_back({line.number, size, us * 1e-6, algorithm, bus});
  }

  // "# Out of bounds values : 0 OK"
  void read_verdict(const LogLine& line, const std::vector<std::string>& words) {
    if (verdict_) refuse(line.number, "a second run ends here: one run per file");
    verdict_ = true;
    if (words.back() != "OK") refuse(line.number, "the run says: '" + shown(line.text) + "'");
  }

  void require_whole() const {
    if (test_.empty()) {
      refuse(
          "does not say which test it is: keep the line with its command or 'Collective test "
          "starting', such as all_reduce_perf");
    }
    if (ranks_.empty()) refuse("lists no ranks; keep the lines '#  Rank  0 ... on HOST ...'");
    const auto ranks = static_cast<int64_t>(ranks_.size());
    if (ranks_.rbegin()->first != ranks - 1) {
      refuse(fmt::format(
          "lists {} ranks up to number {}: some lines are missing", ranks, ranks_.rbegin()->first));
    }
    if (ranks == 1) refuse("one rank moves nothing over links");
    const std::optional<double> factor = bus_factor(test_, ranks);
    if (!factor) {
      refuse(test_ +
             "_perf is not understood; expected all_reduce, all_gather, reduce_scatter, "
             "broadcast, reduce, alltoall, gather, scatter or sendrecv");
    }
    if (test_ == "gather" || test_ == "scatter") {
      refuse(test_ + "_perf measures the root's links alone; measure with all_gather or alltoall");
    }
    for (const Measured& r : rows_) {
      constexpr double kRounding = 0.01;
      constexpr double kGigabytes = 0.02;
      const double expected = r.algorithm * *factor;
      if (std::abs(r.bus - expected) > kRounding * expected + kGigabytes) {
        refuse(r.line,
               fmt::format(
                   "busbw {} GB/s, but {} of {} ranks has {:.4g} times its algbw: {:.2f}: not all "
                   "ranks are listed, or other ones",
                   r.bus,
                   test_,
                   ranks,
                   *factor,
                   expected));
      }
    }
    if (rows_.size() < 2) {
      refuse(fmt::format(
          "has {} measured sizes; two or more are needed to tell latency from bandwidth",
          rows_.size()));
    }
    if (!verdict_) {
      refuse("has no line '# Out of bounds values : 0 OK': the run or the file was cut off");
    }
    const std::string& device = ranks_.begin()->second.device;
    if (!device.empty() && !target_.device.empty() &&
        model_of(device) != model_of(target_.device)) {
      refuse(
          fmt::format("was measured on '{}'; the calibration is of '{}'", device, target_.device));
    }
    const auto per_host = ranks / static_cast<int64_t>(on_host_.size());
    for (const auto& [host, n] : on_host_) {
      if (n == per_host && ranks % static_cast<int64_t>(on_host_.size()) == 0) continue;
      refuse(
          fmt::format("{} of {} ranks on host {}: hosts must have equally many", n, ranks, host));
    }
  }

  LinkBenchmark measured() const {
    const auto ranks = static_cast<int64_t>(ranks_.size());
    const auto hosts = static_cast<int64_t>(on_host_.size());
    const int64_t per_host = ranks / hosts;
    const double factor = *bus_factor(test_, ranks);
    std::vector<Row> rows;
    for (const Measured& r : rows_) rows.push_back({r.size * factor, r.seconds});
    const Fit f = fit(rows);
    if (f.slope <= 0) refuse("its times do not grow with its sizes");
    LinkBenchmark b;
    b.source =
        fmt::format("{}_perf, {} ranks on {} host{}", test_, ranks, hosts, hosts > 1 ? "s" : "");
    b.fit_error = f.error;
    constexpr double kPoorFit = 0.1;
    if (f.error > kPoorFit) {
      b.warnings.push_back(fmt::format(
          "a latency and a bandwidth explain its times only within {:.0f}%: look at its rows",
          100 * f.error));
    }
    const bool pairs = test_ == "sendrecv";
    const bool all_to_all = test_ == "alltoall";
    if (!pairs && !all_to_all && !rings_) {
      b.warnings.push_back(
          test_ +
          " may have gone over NVLS or trees, whose bus bandwidth is not what links carry: run it "
          "with NCCL_ALGO=Ring in its command, or measure sendrecv");
    }
    const double bus = 1 / f.slope;
    const int64_t steps = pairs || all_to_all ? 1 : (test_ == "all_reduce" ? 2 : 1) * (ranks - 1);
    const Duration latency =
        Duration::seconds(f.fixed / static_cast<double>(std::max<int64_t>(1, steps)));
    if (within_a_node(ranks, per_host)) {
      b.node_link = LinkMeasurement{BytesPerSecond(bus), latency};
      if (target_.cluster && target_.cluster->node_link) {
        compare("node_link", b.node_link->bandwidth, target_.cluster->node_link->bandwidth, b);
      }
      return b;
    }
    // Parallel rings enter every host by each of its NICs; of an all-to-all only what leaves the
    // host crosses them.
    const double share = pairs        ? 1
                         : all_to_all ? static_cast<double>(ranks - per_host) /
                                            static_cast<double>(std::max<int64_t>(1, ranks - 1))
                                      : 1 / static_cast<double>(per_host);
    b.network =
        LinkMeasurement{BytesPerSecond(bus * share), pairs ? std::optional(latency) : std::nullopt};
    if (target_.cluster && target_.cluster->network) {
      compare("network", b.network->bandwidth, target_.cluster->network->bandwidth, b);
    }
    return b;
  }

  // Whether all ranks share one node's links: a host is not always a node.
  bool within_a_node(int64_t ranks, int64_t per_host) const {
    const auto hosts = static_cast<int64_t>(on_host_.size());
    if (target_.cluster) {
      const int64_t node = target_.cluster->devices_per_node;
      if (per_host > node) {
        refuse(fmt::format("{} ranks on a host; nodes of '{}' have {} devices",
                           per_host,
                           target_.cluster->name,
                           node));
      }
      if (ranks <= node && (hosts == 1 || per_host < node)) return true;
      if (hosts > 1 && per_host < node && node % per_host == 0 && node > kUsualNode) {
        refuse(fmt::format(
            "{} ranks on {} hosts span several nodes of {} devices that hold several hosts "
            "each: which of them share a node is not said",
            ranks,
            hosts,
            node));
      }
      return hosts == 1;
    }
    const std::string model = model_of(ranks_.begin()->second.device);
    if (hosts > 1 && (model.rfind("GB", 0) == 0 || model.rfind("GH", 0) == 0)) {
      refuse(fmt::format(
          "{} hosts of {} may share one NVLink domain: name a plan, whose cluster says how "
          "many devices a node has (devices_per_node)",
          hosts,
          ranks_.begin()->second.device));
    }
    return hosts == 1;
  }

  // Stated rates are often what applications reach, 75% or more of the line's (DeepEP: 155 of 200
  // GB/s of NVLink, 43 to 47 of 50 GB/s of InfiniBand).
  void compare(const char* link,
               BytesPerSecond measured,
               BytesPerSecond stated,
               LinkBenchmark& b) const {
    constexpr double kReached = 0.75;
    if (measured.value() > stated.value() / kReached) {
      refuse(fmt::format(
          "a {} of {}, which is above the line rate of '{}' ({} stated): it went another "
          "way, or was not measured there",
          link,
          to_string(measured),
          target_.cluster->name,
          to_string(stated)));
    }
    if (measured.value() > stated.value()) {
      b.warnings.push_back(fmt::format("{} of {} is above what '{}' states, {}",
                                       link,
                                       to_string(measured),
                                       target_.cluster->name,
                                       to_string(stated)));
    }
  }

  // Only one process prints; lines of another are of another run.
  void one_process(const LogLine& line) {
    if (!process_) {
      process_ = line.process;
    } else if (*process_ != line.process) {
      refuse(line.number,
             fmt::format("a line of process '{}' among those of '{}': several runs in one file",
                         shown(line.process),
                         shown(*process_)));
    }
  }

  size_t column(const std::string& name) const {
    return static_cast<size_t>(std::find(columns_.begin(), columns_.end(), name) -
                               columns_.begin());
  }
  static std::string shown(const std::string& s) { return whole_characters(s, 100); }

  static constexpr int64_t kUsualNode = 8;  // devices; nodes with more are racks

  struct Measured {
    int64_t line;
    double size, seconds, algorithm, bus;  // bytes; GB/s
  };

  std::string path_;
  LinkTarget target_;
  std::vector<LogLine> lines_;
  std::string test_;
  bool rings_ = false;
  std::optional<std::string> process_;
  std::map<int64_t, Rank> ranks_;
  std::set<std::string> seats_;
  std::map<std::string, int64_t> on_host_;
  std::vector<std::string> columns_;
  std::map<double, int64_t> sizes_;
  std::vector<Measured> rows_;
  bool verdict_ = false;
};

}  // namespace

LinkBenchmark parse_nccl_tests(const std::string& text,
                               const std::string& path,
                               const LinkTarget& target) {
  return NcclReader(text, path, target).read();
}

}  // namespace rehearse
