#include "sim/import/kernel_bench.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/plan.h"

namespace rehearse {
namespace {

const std::string kFolder = REHEARSE_SOURCE_DIR "/experiments/fp8-kernels/";

Cluster h200() {
  return load_plan(kFolder + "h200.yaml").cluster;
}

const std::string kDevice =
    R"({"device": "NVIDIA H200", "sms": 132, "driver": "13.0", "copy_gbs": 4000})"
    "\n";

std::string product(const std::string& shape, double us, const std::string& more = "") {
  return R"({"case": "dense", "work": "product", "tiles": "128x256", "sms": 132, "beside": false,)"
         R"( "family": "dense", "format": "fp8", "shape": )" +
         shape + R"(, "sustained_us": )" + std::to_string(us) +
         R"(, "clock_mhz": 1400, "flops": 240518168576, "bytes": 92274688)" + more + "}\n";
}
const std::string kShape = "[1, 4096, 4096, 7168]";

std::string refusal_of(const std::string& text) {
  try {
    parse_kernel_bench(text, "bench.json", h200());
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(KernelBench, TakesTheFastestTileOfAProductAndSkipsChecks) {
  const GpuCalibration c =
      parse_kernel_bench(kDevice +
                             R"({"case": "dense", "passed": true, "found": "fine"})"
                             "\n" +
                             product(kShape, 230) + product(kShape, 210.5) + product(kShape, 220) +
                             product("[1, 8192, 4096, 7168]", 400),
                         "bench.json",
                         h200());
  ASSERT_EQ(c.entries.size(), 2u);
  EXPECT_DOUBLE_EQ(c.entries[0].samples[0].time.seconds(), 210.5e-6);
  EXPECT_EQ(c.entries[1].m, 8192);
  EXPECT_EQ(c.device, "NVIDIA H200");
  EXPECT_EQ(c.peaks.memory.value(), 4.8e12);
}

TEST(KernelBench, WhatCannotBeTrueIsRefusedByPlace) {
  EXPECT_EQ(refusal_of(product(kShape, 210)),
            "bench.json:1: a case before the line that names the device");
  EXPECT_EQ(refusal_of(kDevice + kDevice), "bench.json:2: a second run begins here");
  EXPECT_EQ(refusal_of(kDevice), "bench.json: no times; expected lines of kernels_bench --json");
  EXPECT_EQ(refusal_of(kDevice + "{\"case\": \"x\", \"pas"),
            "bench.json: ends within a line: the run or the copy was cut off");
  EXPECT_EQ(refusal_of(kDevice + R"({"case": "dense", "passed": false})"
                                 "\n"),
            "bench.json:2: 'dense' failed its check");
  EXPECT_EQ(refusal_of(kDevice + product(kShape, 0)),
            "bench.json:2: 'sustained_us' is no positive number");
  EXPECT_EQ(refusal_of(kDevice + product(kShape, 100)),
            "bench.json:2: 2.405 PFLOP/s is above the device's peak, 1.979 PFLOP/s: the cluster is "
            "not of the device that was measured");
  EXPECT_EQ(refusal_of(kDevice + product("[1, 4096]", 210)),
            "bench.json:2: 'shape' is no list of 4 sizes");
  const std::string few =
      R"({"device": "NVIDIA H20", "sms": 78, "driver": "13.0", "copy_gbs": 4000})"
      "\n";
  EXPECT_EQ(refusal_of(few), "bench.json:1: a device of 78 SMs; those of 'h200-1024' have 132");
  std::string not_a_number = product(kShape, 210);
  not_a_number.replace(not_a_number.find("1400"), 4, "null");
  EXPECT_EQ(refusal_of(kDevice + not_a_number), "bench.json:2: 'clock_mhz' is no positive number");
}

// `rehearse calibrate experiments/fp8-kernels/h200.yaml --kernels
// experiments/fp8-kernels/h200-bench.json
//  --out topologies/h200-kernels.calibration.yaml`
TEST(KernelBench, TheShippedCalibrationIsTheBenchs) {
  const std::string path = kFolder + "h200-bench.json";
  const GpuCalibration c = parse_kernel_bench(read_file(path), path, h200());
  EXPECT_EQ(print_gpu_calibration(c),
            read_file(REHEARSE_SOURCE_DIR "/topologies/h200-kernels.calibration.yaml"));
}

}  // namespace
}  // namespace rehearse
