#include "sim/price/device.h"

#include <cmath>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/plan.h"
#include "sim/predict.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

std::string devices(const std::string& name) {
  return std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/" + name;
}
std::shared_ptr<const DeviceModel> shipped() {
  static const auto device = load_device(devices("h100.yaml"));
  return device;
}

GpuTask attention_of(int64_t qk, int64_t v, int64_t sequence) {
  GpuTask task{.kind = WorkKind::kAttention};
  task.core = AttentionShape{
      .batch = 2, .sequence = sequence, .heads = 16, .kv_heads = 16, .qk = qk, .v = v};
  return task;
}

TEST(Device, ShippedOnesAreFoundByTheirPeaks) {
  Cluster c = load_cluster(std::string(REHEARSE_SOURCE_DIR) + "/topologies/h100-1024.yaml");
  EXPECT_TRUE(shipped_device(c)->ends_with("devices/h100.yaml"));
  c.memory_bandwidth = BytesPerSecond(4.8e12);
  EXPECT_TRUE(shipped_device(c)->ends_with("devices/h200.yaml"));
  c.memory_bandwidth = BytesPerSecond(4e12);
  EXPECT_FALSE(shipped_device(c));
  c = load_cluster(std::string(REHEARSE_SOURCE_DIR) + "/topologies/a100-1024.yaml");
  const auto a100 = load_device(shipped_device(c).value());
  EXPECT_FALSE(a100->facts().fp8);
  EXPECT_FALSE(a100->tables().fp8);
  EXPECT_TRUE(a100->tables().attention);
}

// Shapes in the table are as measured but for the clock under load; a product twice as deep takes
// about twice as long.
TEST(Device, ProductsAreAsMeasuredOrTold) {
  const auto facts = shipped()->facts();
  const auto rows =
      parse_product_table(read_file(devices("h100-products.csv")), "h100", facts).at("bfloat16");
  const Measured<ProductCall>* row = nullptr;
  for (const Measured<ProductCall>& p : rows) {
    if (p.call == ProductCall{4096, 4096, 4096}) row = &p;
  }
  if (row == nullptr) row = &rows.front();
  const GpuTask same =
      product_task(Family::kDense, Format::kBf16, 1, row->call.m, row->call.n, row->call.k);
  const DeviceModel::Answer a = shipped()->time(OpKind::kMlp, Pass::kForward, same);
  EXPECT_EQ(a.origin, Origin::kMeasured);
  EXPECT_NEAR(a.time.seconds() * shipped()->rules().sustained.bf16, row->time.seconds(), 1e-11);
  const auto time = [](Family family, int64_t groups, int64_t m, int64_t n, int64_t k) {
    return shipped()
        ->time(OpKind::kMlp, Pass::kForward, product_task(family, Format::kBf16, groups, m, n, k))
        .time.seconds();
  };
  EXPECT_NEAR(time(Family::kDense, 1, 4096, 3000, 8000) / time(Family::kDense, 1, 4096, 3000, 4000),
              2,
              0.2);
  // A weight gradient: its dimensions in another order, and sums in FP32.
  EXPECT_NEAR(
      time(Family::kWeight, 1, 4096, 4096, 6144) / time(Family::kDense, 1, 4096, 6144, 4096),
      1.05,
      0.1);
  // Groups: one product's time of all rows, and the rule's factor.
  const double grouped = time(Family::kGrouped, 8, 8192, 4096, 4096);
  EXPECT_NEAR(grouped / time(Family::kDense, 1, 8192, 4096, 4096) / shipped()->rules().grouped,
              1 + 8.0 * 64 / 8192,
              0.01);
  EXPECT_EQ(shipped()
                ->time(OpKind::kMlp,
                       Pass::kForward,
                       product_task(Family::kGrouped, Format::kBf16, 8, 8192, 4096, 4096))
                .origin,
            Origin::kRuled);
}

TEST(Device, AttentionByItsWidthAndPass) {
  for (const auto& [width, factor] : shipped()->rules().attention_backward) {
    const GpuTask task = attention_of(width, width == 192 ? 128 : width, 4096);
    const double forward = shipped()->time(OpKind::kAttn, Pass::kForward, task).time.seconds();
    const DeviceModel::Answer back = shipped()->time(OpKind::kAttn, Pass::kInput, task);
    EXPECT_NEAR(back.time.seconds() / forward, factor, 1e-6);
    EXPECT_EQ(back.origin, Origin::kRuled);
  }
  // Four times the pairs.
  const double ratio =
      shipped()->time(OpKind::kAttn, Pass::kForward, attention_of(128, 128, 16384)).time.seconds() /
      shipped()->time(OpKind::kAttn, Pass::kForward, attention_of(128, 128, 8192)).time.seconds();
  EXPECT_NEAR(ratio, 4, 0.5);
}

TEST(Device, StreamsReachTheirShare) {
  const GpuTask norm{.kind = WorkKind::kNorm, .bytes = Bytes(335'000'000)};
  const double forward = shipped()->time(OpKind::kAttn, Pass::kForward, norm).time.microseconds();
  EXPECT_NEAR(forward, 100 / shipped()->rules().memory.at(WorkKind::kNorm).forward, 0.01);
  const GpuTask loss{.kind = WorkKind::kStream, .bytes = Bytes(335'000'000)};
  EXPECT_NEAR(shipped()->time(OpKind::kHead, Pass::kForward, loss).time.microseconds(),
              100 / shipped()->rules().loss.forward,
              0.01);
}

// --- a device's file

class DeviceFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("rehearse-device-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    for (const char* name : {"h100.yaml",
                             "h100-products.csv",
                             "h100-attention.csv",
                             "h100-grouped.csv",
                             "h100-collectives.csv",
                             "h100-exchanges.csv"}) {
      fs::copy_file(devices(name), folder_ / name, fs::copy_options::overwrite_existing);
    }
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string refused(const std::string& what, const std::string& with) {
    std::string text = read_file(devices("h100.yaml"));
    const size_t at = text.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    write_file((folder_ / "h100.yaml").string(), text.replace(at, what.size(), with));
    try {
      load_device((folder_ / "h100.yaml").string());
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(DeviceFile, WhatIsWrongIsNamed) {
  EXPECT_EQ(refused("device: h100", "device: h100"), "");
  const auto has = [&](const std::string& what, const std::string& with, const std::string& why) {
    const std::string said = refused(what, with);
    EXPECT_NE(said.find(why), std::string::npos) << what << " says: " << said;
  };
  has("kernel: bfloat16", "kernel: float64", "has no rows of 'float64'");
  has("file: h100-attention.csv", "file: h100-lost.csv", "no file");
  has("bf16: 0.84,", "bf16: 0,", "sustained");
  has("norm: [0.53, 0.32]", "norm: [0.53]", "expected [forward, backward]");
  has("norm: [0.53, 0.32]", "norm: [0.53, 3.2]", "norm");
  has("  gap: 0.84 us", "  gaps: 0.84 us", "gap");
  has("format: rehearse-device 1", "format: rehearse-device 2", "expected 'rehearse-device 1'");
  has("peak_bf16: 989.5 TFLOP/s", "peak_bf16: 312 TFLOP/s", "above the peak of 'h100'");
  has("attention_backward: [64,", "attention_backward: [", "each with its factor");
}

// Predictions of one layout on the same cluster, and on another one's.
TEST(Device, PlansOfOtherDevicesAreRefused) {
  Plan plan;
  plan = load_plan(std::string(REHEARSE_SOURCE_DIR) + "/experiments/tp-or-ep/tp1.yaml");
  const Calibration calibration{.device = shipped()};
  plan.cluster.sms = 108;
  EXPECT_THROW(
      simulate(plan, build_program(plan), calibration, {.keep = Keep::kSummary, .fold = true}),
      InputError);
}

}  // namespace
}  // namespace rehearse
