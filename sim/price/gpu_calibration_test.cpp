#include "sim/price/gpu_calibration.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"
#include "sim/import/profile.h"
#include "sim/price/gpu_costs.h"

namespace rehearse {
namespace {

std::string shared(const std::string& name) {
  return std::string(REHEARSE_SOURCE_DIR) + "/topologies/" + name;
}
GpuCalibration h800() {
  return load_gpu_calibration(shared("h800-dualpipe.calibration.yaml"));
}
Cluster cluster(const std::string& name) {
  return load_cluster(shared(name + ".yaml"));
}
GpuTask product(int64_t m, int64_t n, int64_t k, Format format = Format::kFp8) {
  const int64_t element = format == Format::kFp8 ? 1 : 2;
  return {.kind = WorkKind::kProduct,
          .flops =
              Flops(2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k)),
          .bytes = Bytes((m * k + n * k) * element + m * n * 2),
          .format = format,
          .m = m,
          .n = n,
          .k = k};
}
constexpr auto kAttnF = std::pair(OpKind::kAttn, Pass::kForward);

TEST(GpuCalibration, PrintsAndParsesBack) {
  const GpuCalibration c = h800();
  const std::string text = print_gpu_calibration(c);
  const GpuCalibration again = parse_gpu_calibration(text, "again.yaml");
  EXPECT_EQ(print_gpu_calibration(again), text);
  EXPECT_EQ(again.entries.size(), c.entries.size());
}

TEST(GpuCalibration, AnyNamePrintsAndParsesBack) {
  for (const std::string name : {"NVIDIA H800: the \"big\" one",
                                 "a # b",
                                 "back\\slash",
                                 "8x",
                                 "line\nbreak\x01\x1b",
                                 "null",
                                 " blanks ",
                                 "{a: b}",
                                 "- c"}) {
    GpuCalibration c = h800();
    c.device = c.source = name;
    for (GpuEntry& e : c.entries) e.source = name;
    const GpuCalibration back = parse_gpu_calibration(print_gpu_calibration(c), "c.yaml");
    EXPECT_EQ(back.device, name);
    EXPECT_EQ(back.source, name);
    EXPECT_EQ(back.entries.front().source, name);
  }
}

TEST(GpuCalibration, ACutOffFileIsRecognised) {
  std::string text = print_gpu_calibration(h800());
  text.resize(text.rfind("\n  - {"));
  try {
    parse_gpu_calibration(text + "\n", "cut.yaml");
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("it was cut off or edited"), std::string::npos);
  }
}

// What was measured is given back: the median of the profile's four layers.
TEST(GpuCosts, MeasuredProductsAreTheirMedians) {
  const GpuCosts costs(h800(), cluster("h800-2048"));
  const GpuCosts::Time t = costs.time(kAttnF.first, kAttnF.second, product(4096, 7168, 16384));
  EXPECT_NEAR(t.beside.microseconds(), 894, 0.5);
  EXPECT_EQ(t.measured, t.beside);
  EXPECT_LT(t.alone, t.beside);
}

// A shape between measured ones: at a speed between theirs, and said not to be measured.
TEST(GpuCosts, OtherShapesLieBetweenTheirNeighbours) {
  const GpuCosts costs(h800(), cluster("h800-2048"));
  const auto rate = [&](int64_t n, int64_t k) {
    const GpuTask task = product(4096, n, k);
    const GpuCosts::Time t = costs.time(OpKind::kMlp, Pass::kForward, task);
    EXPECT_EQ(t.measured, Duration());
    return task.flops.count() / t.beside.seconds() * 1e-12;
  };
  EXPECT_GT(rate(18432, 7168), 800);
  EXPECT_LT(rate(18432, 7168), 1200);
  EXPECT_LT(rate(5120, 128), 400);  // little to do for what it moves
}

TEST(GpuCosts, FewerSmsSlowTensorWorkByTheirShare) {
  Cluster c = cluster("h800-2048");
  const GpuTask task = product(4096, 7168, 16384);
  const Duration at20 = GpuCosts(h800(), c).time(kAttnF.first, kAttnF.second, task).beside;
  c.communication_sms = 40;
  const Duration at40 = GpuCosts(h800(), c).time(kAttnF.first, kAttnF.second, task).beside;
  EXPECT_NEAR(at40 / at20, 112.0 / 92.0, 1e-9);
  // Alone it has all of them, and its clock and caches to itself.
  const GpuCosts costs(h800(), c);
  EXPECT_GT(costs.contention(), 1.05);
  EXPECT_LT(costs.contention(), 1.25);
}

// Nothing to tell a spread or a rate from: ideal times, said to be unknown.
TEST(GpuCosts, CalibrationsThatKnowNothing) {
  GpuCalibration c = h800();
  c.entries = {
      {.op = kAttnF,
       .kind = WorkKind::kGap,
       .beside = true,
       .samples = {{Duration::microseconds(5), {}, {}}, {Duration::microseconds(6), {}, {}}}}};
  const GpuCosts costs(c, cluster("h800-2048"));
  EXPECT_EQ(costs.repetition_spread(), 0);
  const GpuCosts::Time t = costs.time(kAttnF.first, kAttnF.second, product(4096, 7168, 16384));
  EXPECT_FALSE(t.known);
  EXPECT_GT(t.beside, Duration());
  EXPECT_EQ(costs.copy_slowdown(OpKind::kDispatch, Pass::kForward, 0.3), 1);
}

TEST(GpuCosts, AnotherDeviceReachesTheSameShareOfItsLimits) {
  const GpuTask stream{.kind = WorkKind::kStream, .bytes = Bytes(1'000'000'000)};
  const Duration h800_s =
      GpuCosts(h800(), cluster("h800-2048")).time(OpKind::kEmbed, Pass::kForward, stream).alone;
  const Duration h200_s =
      GpuCosts(h800(), cluster("h200-1024")).time(OpKind::kEmbed, Pass::kForward, stream).alone;
  EXPECT_NEAR(h800_s / h200_s, 4.8 / 3.35, 1e-6);
  const GpuTask bf16 = product(4096, 7168, 16384, Format::kBf16);
  const Duration a100 =
      GpuCosts(h800(), cluster("a100-1024")).time(kAttnF.first, kAttnF.second, bf16).beside;
  const Duration h =
      GpuCosts(h800(), cluster("h800-2048")).time(kAttnF.first, kAttnF.second, bf16).beside;
  EXPECT_GT(a100 / h, 2.5);  // 312 against 989.5 TFLOP/s, 108 against 132 SMs
  EXPECT_LT(a100 / h, 3.5);
}

// Beside busier memory an all-to-all's SMs copy more slowly, and never faster than alone.
TEST(GpuCosts, CopyingSlowsDownWithWhatComputesBeside) {
  const GpuCosts costs(h800(), cluster("h800-2048"));
  double last = 1;
  for (const double demand : {0.0, 0.1, 0.3, 0.6, 0.9}) {
    const double s = costs.copy_slowdown(OpKind::kDispatch, Pass::kForward, demand);
    EXPECT_GE(s, last);
    last = s;
  }
  EXPECT_EQ(costs.copy_slowdown(OpKind::kDispatch, Pass::kForward, 0), 1);
}

// Contention is told from products measured both ways, and carries over to those measured alone.
TEST(GpuCosts, ContentionComesFromProductsMeasuredBothWays) {
  GpuCalibration c = load_gpu_calibration(shared("h800-published.calibration.yaml"));
  const Cluster on = cluster("h800-2048");
  EXPECT_EQ(GpuCosts(c, on).contention(), 1);
  for (const GpuEntry& e : h800().entries) {
    if (e.op == std::pair(OpKind::kAttn, Pass::kForward)) c.entries.push_back(e);
  }
  const GpuCosts both(c, on);
  EXPECT_GT(both.contention(), 1.05);
  EXPECT_LT(both.contention(), 1.25);
  GpuTask grouped = product(32768, 4096, 7168);
  grouped.family = Family::kGrouped;
  grouped.groups = 4;
  grouped.bytes = Bytes(32768L * 7168 + 4L * 4096 * 7168 + 32768L * 4096 * 2);
  const GpuCosts::Time t = both.time(OpKind::kMlp, Pass::kForward, grouped);
  EXPECT_NEAR(grouped.flops.count() / t.alone.seconds() * 1e-12, 1346, 15);  // DeepGEMM's figure
  EXPECT_NEAR(t.beside / t.alone, 132.0 / 112.0 * both.contention(), 1e-9);
}

// What fuzzing kept (`make fuzz`) is still read or refused.
TEST(Profile, TheFuzzersCorpus) {
  int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(REHEARSE_SOURCE_DIR) +
                                                               "/tests/corpus/trace")) {
    const std::string text = read_file(entry.path().string());
    ++files;
    try {
      if (text.starts_with("{") || text.starts_with("[")) {
        parse_trace(text, "t.json");
      } else {
        GpuCosts(parse_gpu_calibration(text, "c.yaml"), cluster("h800-2048"));
      }
    } catch (const InputError&) {
    }
  }
  EXPECT_GT(files, 50);
}

TEST(Profile, Patterns) {
  EXPECT_TRUE(fits("*", ""));
  EXPECT_TRUE(fits("a*c", "abc"));
  EXPECT_TRUE(fits("*b*", "abc"));
  EXPECT_FALSE(fits("b*", "abc"));
  EXPECT_TRUE(fits("*ab*ab", "xabyabab"));
  EXPECT_FALSE(fits("abc", "abcd"));
}

// The calibration that comes along is what importing the published profile gives, to the byte, and
// its medians are those of the tables drawn from that profile by others.
TEST(Profile, TheH800CalibrationIsMadeOfThePublishedProfile) {
  const std::string data = std::string(REHEARSE_SOURCE_DIR) + "/../shared/data/";
  if (!std::ifstream(data + "h800-dualpipe-train.json")) {
    GTEST_SKIP() << "skipped: the published profile is not here";
  }
  const std::string path = data + "h800-dualpipe-train.json";
  const Plan plan =
      load_plan(std::string(REHEARSE_SOURCE_DIR) + "/experiments/h800-profile/pair.yaml");
  const Trace trace = read_trace(path);
  EXPECT_EQ(trace.orphans, 0);
  const std::vector<ProfiledOp> ops =
      profile_ops(trace, load_profile_map(shared("h800-dualpipe.map.yaml")), path);
  EXPECT_EQ(ops.size(), 40u);
  GpuCalibration c = import_profile(ops, trace, plan, "h800-dualpipe-train.json");
  const GpuCalibration published = load_gpu_calibration(shared("h800-published.calibration.yaml"));
  c.entries.insert(c.entries.end(), published.entries.begin(), published.entries.end());
  set_demands(c, plan);
  EXPECT_EQ(print_gpu_calibration(c), read_file(shared("h800-dualpipe.calibration.yaml")));
  // h800-train-ops.csv: median spans.
  const std::vector<std::pair<OpName, double>> spans = {
      {{OpKind::kAttn, Pass::kForward}, 4584.5},
      {{OpKind::kAttn, Pass::kInput}, 9604.5},
      {{OpKind::kMlp, Pass::kWeight}, 5159.5},
      {{OpKind::kCombine, Pass::kForward}, 8901.5}};
  for (const auto& [name, us] : spans) {
    std::vector<double> found;
    for (const ProfiledOp& op : ops) {
      if (op.op == name) found.push_back((op.end - op.begin).microseconds());
    }
    ASSERT_EQ(found.size(), 4u);
    std::sort(found.begin(), found.end());
    EXPECT_NEAR((found[1] + found[2]) / 2, us, 0.01);
  }
}

// Without annotations kernels' names say the op, and neighbours on a stream are one run of it.
TEST(Profile, OpsByKernelNames) {
  const Trace t = parse_trace(
      R"([{"ph":"X","cat":"kernel","name":"gemm_a","ts":0,"dur":5,"args":{"stream":7}},
          {"ph":"X","cat":"kernel","name":"gemm_a","ts":6,"dur":5,"args":{"stream":7}},
          {"ph":"X","cat":"kernel","name":"combine","ts":2,"dur":9,"args":{"stream":9}},
          {"ph":"X","cat":"kernel","name":"cast_b","ts":12,"dur":5,"args":{"stream":7}},
          {"ph":"X","cat":"kernel","name":"gemm_a","ts":20,"dur":5,"args":{"stream":7}}])",
      "t.json");
  const ProfileMap map{.ops = {{"", "*_a", kAttnF},
                               {"", "combine", {OpKind::kCombine, Pass::kForward}},
                               {"", "*_b", {OpKind::kMlp, Pass::kForward}}},
                       .kernels = {{"gemm*", WorkKind::kProduct},
                                   {"cast*", WorkKind::kCast},
                                   {"combine", WorkKind::kData}},
                       .rows = {}};
  const std::vector<ProfiledOp> ops = profile_ops(t, map, "t.json");
  ASSERT_EQ(ops.size(), 4u);
  EXPECT_EQ(ops[0].op, kAttnF);
  EXPECT_EQ(ops[0].kernels.size(), 2u);
  EXPECT_EQ(ops[0].of(WorkKind::kProduct), Duration::microseconds(10));
  EXPECT_EQ(ops[0].of(WorkKind::kGap), Duration::microseconds(1));
  EXPECT_EQ(ops[1].op.first, OpKind::kCombine);
  EXPECT_EQ(ops[3].op, kAttnF);
}

}  // namespace
}  // namespace rehearse
