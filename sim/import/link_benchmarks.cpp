#include "sim/import/link_benchmarks.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <map>
#include <regex>
#include <sstream>

#include <fmt/format.h>

#include "base/errors.h"

namespace rehearse {
namespace {

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string w; in >> w;) words.push_back(w);
  return words;
}

std::optional<double> number(const std::string& text) {
  double value = 0;
  const auto r = std::from_chars(text.data(), text.data() + text.size(), value);
  if (r.ec != std::errc() || r.ptr != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

struct Row {
  double bytes = 0, seconds = 0, algorithm = 0, bus = 0;  // rates in bytes per second
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

LinkBenchmark read_nccl(const std::string& text, const std::string& path) {
  std::istringstream in(text);
  std::string line;
  std::string test;
  std::map<std::string, int64_t> on_host;
  int64_t ranks = 0;
  bool has_root = true;
  std::vector<Row> rows;
  int64_t at = 0;
  while (std::getline(in, line)) {
    ++at;
    line.resize(std::min<size_t>(line.size(), 2000));
    if (const size_t end = line.find("_perf"); test.empty() && end != std::string::npos) {
      size_t begin = end;
      while (begin > 0 && (std::islower(static_cast<unsigned char>(line[begin - 1])) != 0 ||
                           line[begin - 1] == '_')) {
        --begin;
      }
      test = line.substr(begin, end - begin);
    }
    const std::vector<std::string> words = words_of(line);
    if (words.empty()) continue;
    // "#  Rank  0 Group  0 Pid 1234 on host7 device  0 [0x18] NVIDIA H800"
    if (words[0] == "#" && words.size() > 3 && words[1] == "Rank") {
      const auto on = std::find(words.begin(), words.end(), "on");
      if (on == words.end() || on + 1 == words.end()) {
        throw InputError(fmt::format("{}:{}: expected '... on HOST device ...'", path, at));
      }
      if (!rows.empty()) {
        throw InputError(
            fmt::format("{}:{}: a second run begins here: one run per file", path, at));
      }
      ++on_host[*(on + 1)];
      ++ranks;
      continue;
    }
    if (line.find("redop") != std::string::npos) has_root = line.find("root") != std::string::npos;
    if (!number(words[0]) || words.size() < 7) continue;
    // size count type redop [root] time algbw busbw ...: older versions have no root.
    size_t first = 3;
    while (first < words.size() && !number(words[first])) ++first;
    if (has_root) ++first;
    if (first + 2 >= words.size() || !number(words[first]) || !number(words[first + 1]) ||
        !number(words[first + 2])) {
      throw InputError(
          fmt::format("{}:{}: expected size, count, type, redop, root, time, algbw, busbw: '{}'",
                      path,
                      at,
                      line.substr(0, 100)));
    }
    Row r;
    const double size = *number(words[0]);
    r.seconds = *number(words[first]) * 1e-6;
    r.algorithm = *number(words[first + 1]) * 1e9;
    r.bus = *number(words[first + 2]) * 1e9;
    if (size <= 0 || r.algorithm == 0) continue;  // too short to tell
    if (r.seconds <= 0 || r.algorithm < 0 || r.bus < 0) {
      throw InputError(fmt::format(
          "{}:{}: a time of {} us at {} GB/s", path, at, words[first], words[first + 1]));
    }
    r.bytes = size * r.bus / r.algorithm;  // over a ring's links
    rows.push_back(r);
  }
  if (test.empty()) {
    throw InputError(
        path +
        ": does not say which test it is: keep the line with its command or 'Collective "
        "test starting', such as all_reduce_perf");
  }
  if (ranks == 0) {
    throw InputError(path + ": lists no ranks; keep the lines '#  Rank  0 ... on HOST ...'");
  }
  if (rows.size() < 2) {
    throw InputError(fmt::format(
        "{}: has {} measured sizes; two or more are needed to tell latency from bandwidth",
        path,
        rows.size()));
  }
  const auto hosts = static_cast<int64_t>(on_host.size());
  const int64_t per_host = ranks / hosts;
  for (const auto& [host, n] : on_host) {
    if (n == per_host && ranks % hosts == 0) continue;
    throw InputError(fmt::format(
        "{}: {} of {} ranks on host {}: hosts must have equally many", path, n, ranks, host));
  }
  const Fit f = fit(rows);
  if (f.slope <= 0) throw InputError(path + ": its times do not grow with its sizes");
  LinkBenchmark b;
  b.source =
      fmt::format("{}_perf, {} ranks on {} host{}", test, ranks, hosts, hosts > 1 ? "s" : "");
  b.fit_error = f.error;
  const double bus = 1 / f.slope;
  const bool pairs = test == "sendrecv";
  const bool all_to_all = test == "alltoall";
  const int64_t steps = pairs || all_to_all ? 1 : (test == "all_reduce" ? 2 : 1) * (ranks - 1);
  const Duration latency =
      Duration::seconds(f.fixed / static_cast<double>(std::max<int64_t>(1, steps)));
  if (hosts == 1) {
    b.node_link = LinkMeasurement{BytesPerSecond(bus), latency};
    return b;
  }
  // Parallel rings enter every host by each of its NICs; of an all-to-all only what leaves the host
  // crosses them.
  const double share = pairs        ? 1
                       : all_to_all ? static_cast<double>(ranks - per_host) /
                                          static_cast<double>(std::max<int64_t>(1, ranks - 1))
                                    : 1 / static_cast<double>(per_host);
  b.network =
      LinkMeasurement{BytesPerSecond(bus * share), pairs ? std::optional(latency) : std::nullopt};
  return b;
}

LinkBenchmark read_deepep(const std::string& text, const std::string& path) {
  // "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 12, RDMA chunk 32: 42.36 GB/s (RDMA), 138.25
  // GB/s (NVL)"; within a node there is no RDMA.
  static const std::regex kBest(R"(Best (dispatch|combine)([^:]*): SMs (\d+))");
  static const std::regex kRate(R"(([0-9.]+) GB/s \((RDMA|NVL)\))");
  LinkBenchmark b;
  std::istringstream in(text);
  int64_t at = 0;
  for (std::string line; std::getline(in, line);) {
    ++at;
    line.resize(std::min<size_t>(line.size(), 2000));
    std::smatch best;
    if (!std::regex_search(line, best, kBest)) continue;
    LinkBenchmark::AllToAll a{.op = best[1], .fp8 = best[2].str().find("FP8") != std::string::npos};
    const auto sms = number(best[3]);
    if (!sms || *sms < 1 || *sms > 10'000) {
      throw InputError(fmt::format("{}:{}: {} SMs", path, at, best[3].str()));
    }
    a.sms = static_cast<int64_t>(*sms);
    for (std::sregex_iterator r(line.begin(), line.end(), kRate), end; r != end; ++r) {
      const auto rate = number((*r)[1]);
      if (!rate || *rate <= 0) {
        throw InputError(
            fmt::format("{}:{}: a rate of {} GB/s", path, at, (*r)[1].str().substr(0, 40)));
      }
      if ((*r)[2] == "RDMA") a.across = *rate * 1e9;
      if ((*r)[2] == "NVL") a.within = *rate * 1e9;
    }
    if (a.within <= 0) {
      throw InputError(fmt::format("{}:{}: expected '... GB/s (NVL)'", path, at));
    }
    b.all_to_alls.push_back(a);
  }
  if (b.all_to_alls.empty()) {
    throw InputError(path + ": has no lines '[tuning] Best dispatch ...' or '... combine ...'");
  }
  b.source = fmt::format("DeepEP, {} best figures", b.all_to_alls.size());
  return b;
}

}  // namespace

LinkBenchmark parse_link_benchmark(const std::string& text, const std::string& path) {
  if (text.find("[tuning]") != std::string::npos) return read_deepep(text, path);
  if (text.find("algbw") != std::string::npos) return read_nccl(text, path);
  throw InputError(path +
                   ": neither nccl-tests' output (with its header line '... algbw busbw ...') nor "
                   "DeepEP's (with lines '[tuning] ...')");
}

}  // namespace rehearse
