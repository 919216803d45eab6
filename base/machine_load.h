#pragma once
// What else a machine did while something was measured on it: work of other processes, and time
// that a hypervisor or a control group's quota took (Linux: /proc and /sys/fs/cgroup).

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/units.h"

namespace rehearse {

// A part of the cores, or of a step, that is told when others took it. Cores that are taken
// lengthen a run that wants all of them by as large a share; a twentieth is what predictions on a
// quiet machine are off by (experiments/cpu-validation: 4.5%).
constexpr double kNoticedShare = 0.05;

struct MachineLoad {
  Duration wall;      // that the measurement took
  int64_t cores = 1;  // that this process may run on; all that follows is of these
  // In cores, mean over `wall`.
  double own = 0;        // this process
  double others = 0;     // all other processes, and interrupts
  double stolen = 0;     // wanted, and given to others by the hypervisor
  double throttled = 0;  // wanted, and not given by the quota of this process's control group
  // Share of `wall` in which some thread, of this process or another, waited for a core; none where
  // the kernel does not tell.
  std::optional<double> pressure;

  double taken() const { return others + stolen + throttled; }
  // Whether a share worth telling was taken, beyond the error of counting (counting_error).
  bool busy() const;
  bool operator==(const MachineLoad&) const = default;
};

// In cores: how far off a count of busy time can be. The kernel asks every 10 ms, at the coarsest,
// who runs: of N such looks a share of the time is found with a standard deviation of at most
// 1 / (2 sqrt N), of which three are allowed.
double counting_error(Duration wall, int64_t cores);

// Of several measurements, one after the other. REQUIRES: at least one.
MachineLoad together(std::span<const MachineLoad> loads);

// "other processes had 0.90 of 2 cores (a thread waited for a core in 45% of the time)".
std::string to_string(const MachineLoad& load);

// What the kernel has counted so far, since it started.
struct LoadSample {
  int64_t nanoseconds = 0;      // on a clock that only goes forward
  int64_t own_nanoseconds = 0;  // of all cores, this process
  int64_t cores = 0;
  int64_t busy_ticks = 0;    // of kTicksPerSecond: work of all processes and interrupts
  int64_t stolen_ticks = 0;  // likewise
  int64_t throttled_nanoseconds = 0;
  std::optional<int64_t> waiting_microseconds;  // some thread for a core
};
constexpr int64_t kTicksPerSecond = 100;  // /proc's unit, whatever the kernel's own is

// Texts of the kernel's files; empty: not there.
struct LoadFiles {
  std::string stat;                   // /proc/stat
  std::string pressure;               // /proc/pressure/cpu
  std::vector<std::string> cpu_stat;  // of the process's control group and those above it
};
// The counts of some CPUs (all where `cpus` is empty); none where `stat` is not as /proc/stat is.
// The clocks are the caller's.
std::optional<LoadSample> parse_load(const LoadFiles& files, std::span<const int> cpus);
// What happened between two samples. Counts that went backwards, as those of a CPU that was taken
// out, count as nothing. None where no time passed.
std::optional<MachineLoad> load_between(const LoadSample& begin, const LoadSample& end);

// Watches this machine from its construction on.
class LoadWatch {
 public:
  LoadWatch();
  // None where the kernel tells nothing.
  std::optional<MachineLoad> so_far() const;

 private:
  std::optional<LoadSample> begin_;
};

}  // namespace rehearse
