#include "sim/import/link_benchmarks.h"

#include <cmath>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/errors.h"

namespace rehearse {
namespace {

// What nccl-tests would print for links of a known rate and latency.
std::string nccl(const std::string& test, int hosts, int per_host, double rate, double latency_us) {
  std::string text = fmt::format("# mpirun {}_perf -b 1M -e 1G\n# Using devices\n", test);
  const int ranks = hosts * per_host;
  for (int r = 0; r < ranks; ++r) {
    text += fmt::format("#  Rank {:2} Group  0 Pid {} on host{} device {:2} [0x18] NVIDIA H800\n",
                        r,
                        100 + r,
                        r / per_host,
                        r % per_host);
  }
  text +=
      "#                                                    out-of-place              in-place\n"
      "#       size         count      type   redop    root     time   algbw   busbw #wrong     "
      "time   "
      "algbw   busbw #wrong\n"
      "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            "
      "(us)  "
      "(GB/s)  (GB/s)\n";
  const double factor = test == "all_reduce" ? 2.0 * (ranks - 1) / ranks : 1;
  const int steps = test == "all_reduce" ? 2 * (ranks - 1) : 1;
  for (double size = 1 << 20; size <= 1 << 30; size *= 4) {
    const double us = latency_us * steps + size * factor / rate * 1e6;
    const double alg = size / us * 1e-3;
    text +=
        fmt::format("  {:.0f} {:.0f} float sum -1 {:.4f} {:.6f} {:.6f} 0 {:.4f} {:.6f} {:.6f} 0\n",
                    size,
                    size / 4,
                    us,
                    alg,
                    alg * factor,
                    us,
                    alg,
                    alg * factor);
  }
  return text + "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 1\n";
}

TEST(LinkBenchmarks, NcclWithinANode) {
  const LinkBenchmark b = parse_link_benchmark(nccl("all_reduce", 1, 8, 155e9, 3.5), "n.txt");
  ASSERT_TRUE(b.node_link);
  EXPECT_FALSE(b.network);
  EXPECT_NEAR(b.node_link->bandwidth.value() / 155e9, 1, 1e-3);
  EXPECT_NEAR(b.node_link->latency->microseconds(), 3.5, 0.05);
  EXPECT_LT(b.fit_error, 1e-3);
  EXPECT_EQ(b.source, "all_reduce_perf, 8 ranks on 1 host");
}

TEST(LinkBenchmarks, NcclAcrossNodesGoesThroughEveryNic) {
  const LinkBenchmark b = parse_link_benchmark(nccl("all_reduce", 4, 8, 8 * 46e9, 5), "n.txt");
  ASSERT_TRUE(b.network);
  EXPECT_FALSE(b.node_link);
  EXPECT_NEAR(b.network->bandwidth.value() / 46e9, 1, 1e-3);
  const LinkBenchmark pairs = parse_link_benchmark(nccl("sendrecv", 2, 1, 47e9, 4), "n.txt");
  EXPECT_NEAR(pairs.network->bandwidth.value() / 47e9, 1, 1e-3);
  EXPECT_NEAR(pairs.network->latency->microseconds(), 4, 0.05);
}

TEST(LinkBenchmarks, DeepEp) {
  const LinkBenchmark b = parse_link_benchmark(
      "[config] num_tokens=4096\n"
      "[tuning] SMs 24, NVL chunk 4, RDMA chunk 4: 19.33 GB/s (RDMA), 63.23 GB/s (NVL)\n"
      "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 12, RDMA chunk 32: 42.36 GB/s (RDMA), "
      "138.25 GB/s (NVL)\n"
      "[tuning] Best combine: SMs 20, NVL chunk 4: 158.5 GB/s (NVL), t: 1 us\n",
      "d.txt");
  ASSERT_EQ(b.all_to_alls.size(), 2u);
  EXPECT_EQ(b.all_to_alls[0].op, "dispatch");
  EXPECT_TRUE(b.all_to_alls[0].fp8);
  EXPECT_EQ(b.all_to_alls[0].sms, 24);
  EXPECT_NEAR(*b.all_to_alls[0].across, 42.36e9, 1);
  EXPECT_FALSE(b.all_to_alls[1].across);
  EXPECT_NEAR(b.all_to_alls[1].within, 158.5e9, 1);
}

std::string why_refused(const std::string& text, const LinkTarget& target = {}) {
  try {
    parse_link_benchmark(text, "x.txt", target);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

// `text` with the first `from` replaced.
std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

#define EXPECT_REFUSED(text, what) \
  EXPECT_NE(why_refused(text).find(what), std::string::npos) << "says: " << why_refused(text)

TEST(LinkBenchmarks, WhatIsNoOutputOfTheseIsRefused) {
  EXPECT_REFUSED("hello", "neither nccl-tests' output");
  EXPECT_REFUSED("# size time algbw busbw\n", "does not say which test it is");
  EXPECT_REFUSED("all_reduce_perf\n# size time algbw busbw\n", "lists no ranks");
  EXPECT_REFUSED("[tuning] nothing\n", "has no lines '[tuning] Best dispatch");
  EXPECT_REFUSED("[tuning] Best dispatch: SMs 20, x\n", "x.txt:1: expected '... GB/s (NVL)'");
  const std::string once = nccl("all_reduce", 2, 2, 47e9, 3);
  EXPECT_REFUSED(with(once, "all_reduce_perf", "hypercube_perf"),
                 "hypercube_perf is not understood");
}

// Ranks, hosts, devices and groups say whether it was one run.
TEST(LinkBenchmarks, IdentitiesAreChecked) {
  const std::string once = nccl("all_reduce", 2, 4, 47e9, 3);
  EXPECT_REFUSED(once + once, "a second run begins here");
  EXPECT_REFUSED(with(once, "Rank  5", "Rank  1"), "rank 1 is listed a second time");
  EXPECT_REFUSED(with(once, "Rank  7", "Rank  9"), "lists 8 ranks up to number 9");
  EXPECT_REFUSED(with(once, "Group  0", "Group  1"), "rank 0 is in group 1");
  EXPECT_REFUSED(with(once, "host1 device  1", "host1 device  0"), "holds two ranks");
  EXPECT_REFUSED(with(once, "host1 device  3", "host2 device  3"), "hosts must have equally many");
  EXPECT_REFUSED(with(once, "H800", "H20"), "links of one kind are measured at a time");
  EXPECT_REFUSED(nccl("sendrecv", 1, 1, 47e9, 3), "one rank moves nothing");
  const LinkTarget h100{.device = "NVIDIA H100"};
  EXPECT_NE(why_refused(once, h100).find("was measured on 'NVIDIA H800'; the calibration is of"),
            std::string::npos);
  const LinkTarget h800{.device = "NVIDIA H800 80GB"};
  EXPECT_EQ(why_refused(once, h800), "");
}

TEST(LinkBenchmarks, RowsMustBeWholeAndMeanWhatTheySay) {
  const std::string once = nccl("all_reduce", 2, 4, 47e9, 3);
  const size_t first = once.find("  1048576 ");
  const std::string row = once.substr(first, once.find('\n', first) + 1 - first);
  EXPECT_REFUSED(with(once, row, row + row), "size 1048576 is listed a second time");
  EXPECT_REFUSED(with(once, row, row.substr(0, 30) + "\n"), "columns: cut off");
  EXPECT_REFUSED(with(once, row, row.substr(0, row.size() - 1) + " 7\n"),
                 "14 figures under 13 columns");
  EXPECT_REFUSED(with(once, "#wrong", "cputime"), "a column 'cputime', which is not understood");
  EXPECT_REFUSED(with(once, "(us)", "(ms)"), "a unit '(ms)'");
  EXPECT_REFUSED(with(once, "# Out of bounds values : 0 OK\n", ""), "has no line '# Out of bounds");
  EXPECT_REFUSED(with(once, ": 0 OK", ": 12 FAILED"), "the run says:");
  std::string wrong = row;
  wrong.replace(wrong.find(" 0 "), 3, " 517 ");
  EXPECT_REFUSED(with(once, row, wrong), "517 wrong values");
  EXPECT_REFUSED(with(once, row, "nodea: Test NCCL failure common.cu:958\n"), "the run failed");
  std::string of_others = once;
  for (const char* r : {"6", "7"}) {
    const size_t at = of_others.find(std::string("#  Rank  ") + r);
    of_others.erase(at, of_others.find('\n', at) + 1 - at);
  }
  EXPECT_NE(why_refused(of_others), "") << "two ranks are missing";
}

TEST(LinkBenchmarks, LaunchersPrefixesAreTakenOff) {
  const std::string once = nccl("all_reduce", 2, 8, 8 * 46e9, 5);
  const auto prefixed = [&](const std::string& prefix) {
    std::string out;
    std::istringstream in(once);
    for (std::string line; std::getline(in, line);) out += prefix + line + "\n";
    return out;
  };
  for (const char* prefix : {"[1,0]<stdout>:",
                             "[1,0]<stdout>: ",
                             " 0: ",
                             "2026-02-16T10:00:02.123456789Z ",
                             "2026-02-16T10:00:02.1Z stdout F ",
                             "[pod/nccl-0/main] ",
                             "[rank0]: ",
                             "node17: "}) {
    const LinkBenchmark b = parse_link_benchmark(prefixed(prefix), "n.txt");
    ASSERT_TRUE(b.network) << prefix;
    EXPECT_NEAR(b.network->bandwidth.value() / 46e9, 1, 1e-3) << prefix;
  }
  // Two processes that both print did not know of each other.
  const std::string zero = prefixed("0: ");
  EXPECT_REFUSED(with(zero, "0: #  Rank  3", "1: #  Rank  3"),
                 "a line of process '1:' among those of '0:'");
}

TEST(LinkBenchmarks, DoubtsAreWarnings) {
  EXPECT_EQ(parse_link_benchmark(nccl("sendrecv", 2, 1, 47e9, 4), "n.txt").warnings.size(), 0u);
  const std::string rings = nccl("all_reduce", 1, 8, 155e9, 3.5);
  ASSERT_EQ(parse_link_benchmark(rings, "n.txt").warnings.size(), 1u);
  EXPECT_NE(parse_link_benchmark(rings, "n.txt").warnings[0].find("NVLS or trees"),
            std::string::npos);
  EXPECT_EQ(parse_link_benchmark("NCCL_ALGO=Ring\n" + rings, "n.txt").warnings.size(), 0u);
  // Times that no line explains: one size ten times as slow as the rest.
  std::string uneven = nccl("sendrecv", 2, 1, 47e9, 4);
  const size_t at = uneven.find("  67108864 ");
  uneven.replace(at,
                 uneven.find('\n', at) - at,
                 "  67108864 16777216 float sum -1 14278.5 4.70 4.70 0 14278.5 4.70 4.70 0");
  const LinkBenchmark b = parse_link_benchmark(uneven, "n.txt");
  ASSERT_EQ(b.warnings.size(), 1u);
  EXPECT_NE(b.warnings[0].find("explain its times only within"), std::string::npos);
}

// A plan's cluster says what a node is and what its links carry.
TEST(LinkBenchmarks, TheClusterSaysWhatANodeIs) {
  Cluster rack;
  rack.name = "rack";
  rack.devices_per_node = 72;
  rack.node_link = Link{BytesPerSecond(700e9), Duration()};
  const LinkTarget in_rack{.cluster = &rack};
  const std::string across = nccl("all_reduce", 4, 4, 680e9, 5);
  EXPECT_TRUE(parse_link_benchmark(across, "n.txt", in_rack).node_link);
  const std::string gb200 = [&] {
    std::string text = across;
    for (size_t at = text.find("H800"); at != std::string::npos; at = text.find("H800", at)) {
      text.replace(at, 4, "GB200");
    }
    return text;
  }();
  EXPECT_REFUSED(gb200, "may share one NVLink domain");
  rack.devices_per_node = 2;
  EXPECT_NE(why_refused(across, in_rack).find("4 ranks on a host; nodes of 'rack' have 2"),
            std::string::npos);
  // Above what its links can carry, or only above what is stated of them.
  rack.devices_per_node = 16;
  rack.node_link->bandwidth = BytesPerSecond(400e9);
  EXPECT_NE(why_refused(across, in_rack).find("above the line rate of 'rack'"), std::string::npos);
  rack.node_link->bandwidth = BytesPerSecond(600e9);
  EXPECT_EQ(parse_link_benchmark("NCCL_ALGO=Ring\n" + across, "n.txt", in_rack).warnings.size(),
            1u);
}

TEST(LinkBenchmarks, DeepEpsFiguresStandOnceEach) {
  const std::string two =
      "[tuning] Best dispatch (FP8): SMs 24: 43.10 GB/s (RDMA), 140.70 GB/s (NVL)"
      "[tuning] Best combine: SMs 20: 39.90 GB/s (RDMA), 131.80 GB/s (NVL)\n";
  const LinkBenchmark b = parse_link_benchmark(two, "d.txt");
  ASSERT_EQ(b.all_to_alls.size(), 2u);
  EXPECT_NEAR(*b.all_to_alls[0].across, 43.1e9, 1);
  EXPECT_NEAR(b.all_to_alls[1].within, 131.8e9, 1);
  EXPECT_EQ(b.all_to_alls[1].sms, 20);
  EXPECT_REFUSED(two + two, "a second best dispatch (FP8)");

  // Tokens that stay at home are counted: up to twice the line's rate.
  Cluster cluster;
  cluster.node_link = Link{BytesPerSecond(160e9), Duration()};
  cluster.network = Link{BytesPerSecond(30e9), Duration()};
  const LinkTarget target{.cluster = &cluster};
  EXPECT_EQ(parse_link_benchmark(two, "d.txt", target).all_to_alls.size(), 2u);
  cluster.network->bandwidth = BytesPerSecond(12.5e9);
  EXPECT_NE(why_refused(two, target).find("x.txt:1: RDMA of"), std::string::npos);
  cluster.network->bandwidth = BytesPerSecond(50e9);
  cluster.node_link->bandwidth = BytesPerSecond(40e9);
  EXPECT_NE(why_refused(two, target).find("over twice the line rate"), std::string::npos);
}

#undef EXPECT_REFUSED

}  // namespace
}  // namespace rehearse
