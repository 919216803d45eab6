#include "base/machine_load.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string_view>

#include <fmt/format.h>
#include <sched.h>

namespace rehearse {
namespace {

// Without an error for what is not there or cannot be read: the kernel need not tell.
std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  if (in) out << in.rdbuf();
  return std::move(out).str();
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t n = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, n);
  if (error != std::errc() || rest != end || n < 0) return std::nullopt;
  return n;
}

// What stands behind `key` and a blank at a line's begin.
std::optional<int64_t> value_of(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  std::string word, value;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    if (words >> word >> value && word == key) return whole_number(value);
  }
  return std::nullopt;
}

// "cpu3  user nice system idle iowait irq softirq steal guest guest_nice": guests are in user and
// nice; idle and iowait are nobody's.
void add_cpu(const std::string& line, std::span<const int> cpus, LoadSample& sample) {
  std::istringstream words(line);
  std::string name;
  words >> name;
  const std::optional<int64_t> number = whole_number(std::string_view(name).substr(3));
  if (!number) return;  // the sum over all
  if (!cpus.empty() && std::find(cpus.begin(), cpus.end(), *number) == cpus.end()) return;
  constexpr size_t kIdle = 3, kIoWait = 4, kSteal = 7, kFields = 8;
  ++sample.cores;
  std::string word;
  for (size_t i = 0; i < kFields && words >> word; ++i) {
    const int64_t ticks = whole_number(word).value_or(0);
    if (i == kSteal) {
      sample.stolen_ticks += ticks;
    } else if (i != kIdle && i != kIoWait) {
      sample.busy_ticks += ticks;
    }
  }
}

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=82641854".
std::optional<int64_t> waiting(const std::string& pressure) {
  constexpr std::string_view kTotal = "total=";
  const size_t some = pressure.find("some ");
  const size_t at = some == std::string::npos ? some : pressure.find(kTotal, some);
  if (at == std::string::npos) return std::nullopt;
  const std::string_view rest = std::string_view(pressure).substr(at + kTotal.size());
  return whole_number(rest.substr(0, rest.find('\n')));
}

// The files cpu.stat of the control groups that this process is in, of either version.
std::vector<std::string> cpu_stats() {
  std::vector<std::string> texts;
  std::istringstream lines(text_of("/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    // "0::/path", or of version 1 "4:cpu,cpuacct:/path".
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool cpu = ("," + controllers + ",").find(",cpu,") != std::string::npos;
    if (!controllers.empty() && !cpu) continue;
    const std::string root = "/sys/fs/cgroup" + (cpu ? "/" + controllers : "");
    for (std::string path = line.substr(second + 1);; path.erase(path.rfind('/'))) {
      texts.push_back(text_of(root + path + "/cpu.stat"));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return texts;
}

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) cpus.push_back(i);
  }
  return cpus;
}

int64_t nanoseconds_of(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

std::optional<LoadSample> sample_now() {
  std::optional<LoadSample> sample = parse_load({.stat = text_of("/proc/stat"),
                                                 .pressure = text_of("/proc/pressure/cpu"),
                                                 .cpu_stat = cpu_stats()},
                                                allowed_cpus());
  if (!sample) return sample;
  sample->nanoseconds = nanoseconds_of(CLOCK_MONOTONIC);
  sample->own_nanoseconds = nanoseconds_of(CLOCK_PROCESS_CPUTIME_ID);
  return sample;
}

// No count is better than a millionth.
double rounded(double cores) {
  return std::nearbyint(cores * 1e6) / 1e6;
}

std::string cores_text(double cores) {
  return cores < 10 ? fmt::format("{:.2f}", cores) : fmt::format("{:.0f}", cores);
}

}  // namespace

double counting_error(Duration wall, int64_t cores) {
  constexpr double kDeviations = 3;
  const double looks =
      wall.seconds() * static_cast<double>(cores) * static_cast<double>(kTicksPerSecond);
  return looks > 0 ? static_cast<double>(cores) * kDeviations / (2 * std::sqrt(looks))
                   : static_cast<double>(cores);
}

bool MachineLoad::busy() const {
  return taken() > kNoticedShare * static_cast<double>(cores) + counting_error(wall, cores);
}

MachineLoad together(std::span<const MachineLoad> loads) {
  CHECK(!loads.empty()) << "no load";
  double seconds = 0;
  MachineLoad sum{.cores = loads.front().cores};
  bool told = true;
  double pressure = 0;
  for (const MachineLoad& load : loads) {
    const double s = load.wall.seconds();
    seconds += s;
    sum.wall += load.wall;
    sum.own += s * load.own;
    sum.others += s * load.others;
    sum.stolen += s * load.stolen;
    sum.throttled += s * load.throttled;
    told = told && load.pressure.has_value();
    pressure += s * load.pressure.value_or(0);
  }
  if (seconds == 0) return loads.front();
  for (double* part : {&sum.own, &sum.others, &sum.stolen, &sum.throttled}) *part /= seconds;
  if (told) sum.pressure = pressure / seconds;
  return sum;
}

std::string to_string(const MachineLoad& load) {
  struct Part {
    const char* who;
    double cores;
  };
  constexpr double kShown = 0.1;  // of all that was taken
  std::string text;
  for (const Part& part : {Part{"other processes had {}", load.others},
                           Part{"the hypervisor gave {} to others", load.stolen},
                           Part{"the control group's quota kept back {}", load.throttled}}) {
    if (part.cores <= kShown * load.taken()) continue;
    const std::string first = text.empty() ? fmt::format(" of {} cores", load.cores) : "";
    text += (text.empty() ? "" : ", ") +
            fmt::format(fmt::runtime(part.who), cores_text(part.cores) + first);
  }
  if (text.empty()) return fmt::format("nobody else had any of {} cores", load.cores);
  if (load.pressure) {
    text +=
        fmt::format(" (a thread waited for a core in {:.0f}% of the time)", 100 * *load.pressure);
  }
  return text;
}

std::optional<LoadSample> parse_load(const LoadFiles& files, std::span<const int> cpus) {
  LoadSample sample;
  std::istringstream lines(files.stat);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("cpu")) add_cpu(line, cpus, sample);
  }
  if (sample.cores == 0) return std::nullopt;
  sample.waiting_microseconds = waiting(files.pressure);
  for (const std::string& text : files.cpu_stat) {
    if (const auto us = value_of(text, "throttled_usec")) {
      sample.throttled_nanoseconds += 1000 * *us;
    } else {
      sample.throttled_nanoseconds += value_of(text, "throttled_time").value_or(0);
    }
  }
  return sample;
}

std::optional<MachineLoad> load_between(const LoadSample& begin, const LoadSample& end) {
  const int64_t wall = end.nanoseconds - begin.nanoseconds;
  if (wall <= 0) return std::nullopt;
  const auto cores = [&](int64_t from, int64_t to, double per_second) {
    const double all = std::max(0.0, static_cast<double>(to - from) / per_second);
    return rounded(all / (static_cast<double>(wall) * 1e-9));
  };
  constexpr double kTicks = static_cast<double>(kTicksPerSecond);
  // Longer ones than a Duration holds count as the longest that prints to the microsecond.
  constexpr double kLongest = 9e6;
  MachineLoad load{.wall = Duration::microseconds(
                       std::nearbyint(std::min(static_cast<double>(wall) * 1e-9, kLongest) * 1e6)),
                   .cores = std::min(begin.cores, end.cores),
                   .own = cores(begin.own_nanoseconds, end.own_nanoseconds, 1e9),
                   .stolen = cores(begin.stolen_ticks, end.stolen_ticks, kTicks),
                   .throttled = cores(begin.throttled_nanoseconds, end.throttled_nanoseconds, 1e9)};
  load.others = rounded(std::max(0.0, cores(begin.busy_ticks, end.busy_ticks, kTicks) - load.own));
  if (begin.waiting_microseconds && end.waiting_microseconds) {
    load.pressure =
        std::min(1.0, cores(*begin.waiting_microseconds, *end.waiting_microseconds, 1e6));
  }
  return load;
}

LoadWatch::LoadWatch() : begin_(sample_now()) {}

std::optional<MachineLoad> LoadWatch::so_far() const {
  const std::optional<LoadSample> now = sample_now();
  return begin_ && now ? load_between(*begin_, *now) : std::nullopt;
}

}  // namespace rehearse
