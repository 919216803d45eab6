#include "plan/routing/routing_file.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

class RoutingFile : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / (std::string("rehearse_routing_") + info->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    path_ = (folder_ / "r.h5").string();
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::vector<int32_t> choices(int64_t m, int64_t layer) {
    std::vector<int32_t> c(12);
    for (size_t i = 0; i < c.size(); ++i) {
      c[i] = static_cast<int32_t>((static_cast<size_t>(5 * m + 3 * layer) + i) % 300);
    }
    return c;
  }
  static constexpr RoutingShape kShape{
      .micro_batches = 3, .layers = 2, .tokens = 6, .active = 2, .experts = 300};
  void write() {
    RoutingWriter w(path_, kShape);
    for (int64_t m = 0; m < 3; ++m) {
      for (int64_t l = 0; l < 2; ++l) w.write(m, l, choices(m, l));
    }
    w.finish();
  }
  std::string error() {
    try {
      const RoutingReader r(path_);
      for (int64_t m = 0; m < r.shape().micro_batches; ++m) r.read(m, 0);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  }
  fs::path folder_;
  std::string path_;
};

TEST_F(RoutingFile, RoundTrip) {
  write();
  const RoutingReader r(path_);
  EXPECT_EQ(r.shape(), kShape);
  for (int64_t m = 0; m < 3; ++m) {
    for (int64_t l = 0; l < 2; ++l) EXPECT_EQ(r.read(m, l), choices(m, l));
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(RoutingFile, StepsWithWeights) {
  RoutingWriter w(path_, kShape, {{"model", "small"}}, /*weights=*/true);
  std::vector<float> weights(12);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.25f * static_cast<float>(i);
  for (const int64_t step : {7, 9}) {
    w.begin_step(step);
    for (int64_t m = 0; m < 3; ++m) {
      for (int64_t l = 0; l < 2; ++l) w.write(m, l, choices(m + step, l), weights);
    }
    w.commit();
    // Whole at every commit.
    const RoutingReader r(path_);
    EXPECT_EQ(r.shape().steps, step == 7 ? 1 : 2);
    EXPECT_EQ(r.steps().back(), step);
    EXPECT_EQ(r.about("model"), "small");
    EXPECT_EQ(r.about("nothing"), "");
    for (int64_t m = 0; m < 3; ++m) {
      EXPECT_EQ(r.read(m, 1, r.shape().steps - 1), choices(m + step, 1));
      EXPECT_EQ(r.read_weights(m, 0, r.shape().steps - 1), weights);
    }
  }
  weights[5] = std::numeric_limits<float>::quiet_NaN();
  w.begin_step(10);
  for (int64_t m = 0; m < 3; ++m) {
    for (int64_t l = 0; l < 2; ++l) w.write(m, l, choices(m, l), weights);
  }
  w.commit();
  try {
    RoutingReader(path_).read_weights(2, 1, 2);
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("token 2 of micro-batch 2 of layer 1 has a weight of nan"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(RoutingFile, WhatIsNotFinishedLeavesNothing) {
  { RoutingWriter w(path_, kShape); }
  EXPECT_TRUE(fs::is_empty(folder_));
  EXPECT_THROW(RoutingWriter("/proc/none/r.h5", kShape), InputError);
}

TEST_F(RoutingFile, WhatIsWrongIsSaid) {
  EXPECT_NE(error().find("no such file"), std::string::npos);
  std::ofstream(path_) << "hello";
  EXPECT_NE(error().find("is not an HDF5 file"), std::string::npos);
  write();
  fs::resize_file(path_, fs::file_size(path_) / 2);
  EXPECT_NE(error(), "");
  RoutingShape one = kShape;
  one.micro_batches = one.layers = 1;
  const auto write_one = [&](const std::vector<int32_t>& chosen) {
    RoutingWriter w(path_, one);
    w.write(0, 0, chosen);
    w.finish();
  };
  one.experts = 7;  // and choices up to 11
  write_one(choices(0, 0));
  EXPECT_NE(error().find("token 3 of micro-batch 0 of layer 0 chooses expert 7 of 7"),
            std::string::npos)
      << error();
  one.experts = 300;
  write_one({0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11});
  EXPECT_NE(error().find("token 2 of micro-batch 0 of layer 0 chooses expert 4 twice"),
            std::string::npos)
      << error();
  {
    RoutingWriter w(path_, kShape);
    w.write(0, 0, choices(0, 0));
    w.finish();
  }
  EXPECT_NE(error().find("has 1 of its 6 chunks"), std::string::npos) << error();
}

}  // namespace
}  // namespace rehearse
