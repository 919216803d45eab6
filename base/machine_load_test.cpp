// What the kernel's counts say about who had a machine's cores: known answers from made-up files.

#include "base/machine_load.h"

#include <array>
#include <cmath>
#include <ctime>

#include <gtest/gtest.h>

namespace rehearse {
namespace {

// Ticks of user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice.
const std::string kBegin =
    "cpu  300 0 30 1500 20 3 7 5 0 0\n"
    "cpu0 100 0 10 700 10 1 3 5 0 0\n"
    "cpu1 200 0 20 800 10 2 4 0 0 0\n"
    "intr 354226 0 0\nctxt 99\nprocs_running 3\n";

LoadSample sample(const LoadFiles& files, int64_t wall_ms, int64_t own_ms) {
  LoadSample s = parse_load(files, {}).value();
  s.nanoseconds = 1'000'000 * wall_ms;
  s.own_nanoseconds = 1'000'000 * own_ms;
  return s;
}

// Two CPUs of which 10 s later each has `busy` more ticks of user and `stolen` more of steal.
std::string later(int64_t busy, int64_t stolen) {
  const auto n = [](int64_t x) { return std::to_string(x); };
  return "cpu  0 0 0 0 0 0 0 0 0 0\n"
         "cpu0 " +
         n(100 + busy) + " 0 10 9999 999 1 3 " + n(5 + stolen) + " " + n(busy) + " 0\n" + "cpu1 " +
         n(200 + busy) + " 0 20 9999 999 2 4 " + n(stolen) + " 0 0\n";
}

TEST(MachineLoad, CountsWhatOthersHad) {
  // 10 s on two cores. Busy: 2 x 950 ticks = 19 s; own 10.5 s, so others 8.5 s: 0.85 cores. Guests
  // are in user already, idle and iowait are nobody's.
  const MachineLoad load = load_between(sample({.stat = kBegin}, 1000, 200),
                                        sample({.stat = later(950, 0)}, 11'000, 10'700))
                               .value();
  EXPECT_EQ(load.wall, Duration::seconds(10));
  EXPECT_EQ(load.cores, 2);
  EXPECT_NEAR(load.own, 1.05, 1e-12);
  EXPECT_NEAR(load.others, 0.85, 1e-12);
  EXPECT_EQ(load.stolen, 0);
  EXPECT_FALSE(load.pressure);
  EXPECT_TRUE(load.busy());
  EXPECT_EQ(to_string(load), "other processes had 0.85 of 2 cores");
}

TEST(MachineLoad, AQuietMachineIsQuiet) {
  // Own 1.9 of 2 cores, of others 0.02: a daemon now and then.
  const MachineLoad load =
      load_between(sample({.stat = kBegin}, 0, 0), sample({.stat = later(960, 0)}, 10'000, 19'000))
          .value();
  EXPECT_NEAR(load.others, 0.02, 1e-12);
  EXPECT_FALSE(load.busy());
}

TEST(MachineLoad, StolenTimeAndPressureAreTold) {
  const std::string before = "some avg10=1.00 avg60=2.00 avg300=3.00 total=1000\nfull total=7\n";
  const std::string after = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4501000\nfull total=7\n";
  // Stolen: 2 x 150 ticks = 3 s of 10: 0.3 cores. Some thread waited for 4.5 s of 10.
  const MachineLoad load =
      load_between(sample({.stat = kBegin, .pressure = before}, 0, 0),
                   sample({.stat = later(500, 150), .pressure = after}, 10'000, 10'000))
          .value();
  EXPECT_NEAR(load.stolen, 0.3, 1e-12);
  EXPECT_EQ(load.others, 0);
  EXPECT_NEAR(load.pressure.value(), 0.45, 1e-12);
  EXPECT_TRUE(load.busy());
  EXPECT_EQ(to_string(load),
            "the hypervisor gave 0.30 of 2 cores to others (a thread waited for a core in 45% of "
            "the time)");
}

TEST(MachineLoad, AQuotaThatKeepsBackIsTold) {
  const auto throttled = [](const std::string& text) {
    return LoadFiles{.stat = kBegin, .cpu_stat = {"", text}};
  };
  // Version 2 counts microseconds, version 1 nanoseconds; 4 s of 10: 0.4 cores.
  for (const auto& [before, after] :
       {std::pair("usage_usec 9\nthrottled_usec 500000\n",
                  "usage_usec 9\nthrottled_usec 4500000\n"),
        std::pair("nr_periods 3\nthrottled_time 500000000\n", "throttled_time 4500000000\n")}) {
    const MachineLoad load =
        load_between(sample(throttled(before), 0, 0), sample(throttled(after), 10'000, 0)).value();
    EXPECT_NEAR(load.throttled, 0.4, 1e-12) << after;
    EXPECT_TRUE(load.busy());
    EXPECT_EQ(to_string(load), "the control group's quota kept back 0.40 of 2 cores");
  }
}

TEST(MachineLoad, OnlyCoresThatThisProcessMayUseCount) {
  const std::array<int, 1> second{1};
  const LoadSample s = parse_load({.stat = kBegin}, second).value();
  EXPECT_EQ(s.cores, 1);
  EXPECT_EQ(s.busy_ticks, 200 + 20 + 2 + 4);
  EXPECT_EQ(s.stolen_ticks, 0);
}

TEST(MachineLoad, TheThresholdIsATwentiethBeyondTheErrorOfCounting) {
  // In a minute two cores are looked at 12000 times: 3 / (2 sqrt 12000) = 1.4% of them.
  EXPECT_NEAR(counting_error(Duration::seconds(60), 2), 2 * 1.5 / std::sqrt(12'000.0), 1e-12);
  MachineLoad load{.wall = Duration::seconds(60), .cores = 2};
  load.others = 2 * (0.05 + 0.0136);
  EXPECT_FALSE(load.busy());
  load.others = 2 * (0.05 + 0.0138);
  EXPECT_TRUE(load.busy());
  // Half a second tells little: a fifth of the cores.
  load.wall = Duration::seconds(0.5);
  load.others = 2 * 0.19;
  EXPECT_FALSE(load.busy());
  load.others = 2 * 0.21;
  EXPECT_TRUE(load.busy());
  // Whoever it was that took it.
  load = {.wall = Duration::seconds(60), .cores = 2, .others = 0.05, .stolen = 0.05};
  EXPECT_FALSE(load.busy());
  load.throttled = 0.05;
  EXPECT_TRUE(load.busy());
}

TEST(MachineLoad, CountsThatGoBackwardsAreNothing) {
  const MachineLoad load =
      load_between(sample({.stat = later(100, 100)}, 0, 0), sample({.stat = kBegin}, 1000, 0))
          .value();
  EXPECT_EQ(load.others, 0);
  EXPECT_EQ(load.stolen, 0);
  EXPECT_FALSE(load_between(sample({.stat = kBegin}, 5, 0), sample({.stat = kBegin}, 5, 0)));
}

TEST(MachineLoad, FilesThatAreNotThereTellNothing) {
  EXPECT_FALSE(parse_load({}, {}));
  EXPECT_FALSE(parse_load({.stat = "garbage\n\n"}, {}));
  EXPECT_FALSE(parse_load({.stat = "cpu  1 2 3\n"}, {}));  // the sum alone
  const std::array<int, 1> none{7};
  EXPECT_FALSE(parse_load({.stat = kBegin}, none));
  // Short lines, words for numbers: what can be read counts.
  const LoadSample s = parse_load({.stat = "cpu0 1 x 3\ncpux 9\n",
                                   .pressure = "some total=",
                                   .cpu_stat = {"throttled_usec none\n"}},
                                  {})
                           .value();
  EXPECT_EQ(s.busy_ticks, 4);
  EXPECT_FALSE(s.waiting_microseconds);
  EXPECT_EQ(s.throttled_nanoseconds, 0);
}

TEST(MachineLoad, SeveralMeasurementsAreWeighedByTheirTime) {
  const std::array<MachineLoad, 2> loads{
      MachineLoad{.wall = Duration::seconds(1), .cores = 2, .own = 2, .others = 1, .pressure = 0.5},
      MachineLoad{.wall = Duration::seconds(3), .cores = 2, .own = 1, .pressure = 0.1}};
  const MachineLoad sum = together(loads);
  EXPECT_EQ(sum.wall, Duration::seconds(4));
  EXPECT_DOUBLE_EQ(sum.own, 1.25);
  EXPECT_DOUBLE_EQ(sum.others, 0.25);
  EXPECT_DOUBLE_EQ(sum.pressure.value(), 0.2);
}

// This machine, whatever runs on it: work of this process is not others'.
TEST(MachineLoad, OwnWorkIsOwn) {
  const LoadWatch watch;
  const int64_t end = static_cast<int64_t>(std::clock()) + CLOCKS_PER_SEC / 5;
  while (static_cast<int64_t>(std::clock()) < end) {
  }
  const std::optional<MachineLoad> load = watch.so_far();
  if (!load) GTEST_SKIP() << "the kernel tells nothing here";
  EXPECT_GE(load->cores, 1);
  EXPECT_GE(load->own * load->wall.seconds(), 0.2);
  EXPECT_LE(load->own + load->others,
            static_cast<double>(load->cores) + counting_error(load->wall, load->cores));
}

}  // namespace
}  // namespace rehearse
