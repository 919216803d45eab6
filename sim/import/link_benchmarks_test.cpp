#include "sim/import/link_benchmarks.h"

#include <cmath>

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
      "#       size         count      type   redop    root     time   algbw   busbw #wrong\n"
      "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)\n";
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

TEST(LinkBenchmarks, WhatIsWrongIsSaid) {
  const auto error = [](const std::string& text) {
    try {
      parse_link_benchmark(text, "x.txt");
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(error("hello").find("neither nccl-tests' output"), std::string::npos);
  EXPECT_NE(error("# algbw busbw\n").find("does not say which test it is"), std::string::npos);
  EXPECT_NE(error("all_reduce_perf algbw\n").find("lists no ranks"), std::string::npos);
  EXPECT_NE(error("all_reduce_perf algbw\n# Rank 0 Pid 1 on a device 0\n8 2 float sum -1 1 2 3 0\n")
                .find("has 1 measured sizes"),
            std::string::npos);
  EXPECT_NE(error("all_reduce_perf algbw\n# Rank 0 Pid 1 on a device 0\n8 2 float sum -1 x y z 0\n")
                .find("x.txt:3: expected size, count, type"),
            std::string::npos);
  const std::string once = nccl("all_reduce", 2, 2, 47e9, 3);
  EXPECT_NE(error(once + once).find("a second run begins here: one run per file"),
            std::string::npos);
  EXPECT_NE(error("[tuning] nothing\n").find("has no lines '[tuning] Best dispatch"),
            std::string::npos);
  EXPECT_NE(error("[tuning] Best dispatch: SMs 20, x\n").find("x.txt:1: expected '... GB/s (NVL)'"),
            std::string::npos);
}

}  // namespace
}  // namespace rehearse
