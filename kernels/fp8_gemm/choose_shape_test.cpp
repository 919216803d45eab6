#include "kernels/fp8_gemm/choose_shape.h"

#include <gtest/gtest.h>

#include "base/integers.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"

namespace rehearse::kernels {
namespace {

// 128 of the contraction: what `wgmma` reads, (64 + columns) x 128 bytes per product, two warp
// groups' and all halves'; what the copies write; at 128 bytes per clock.
TEST(ChooseShape, SharedMemoryIsWhatBindsMostTiles) {
  const auto clocks = [](int width, int halves) {
    return shared_clocks({width, halves, 2, 2}, false);
  };
  EXPECT_EQ(clocks(128, 2), (4 * (64 + 128) + 128 + 256) + 4);
  EXPECT_EQ(clocks(192, 1), (2 * (64 + 192) + 128 + 192) + 4);
  EXPECT_EQ(clocks(128, 1), (2 * (64 + 128) + 128 + 128) + 4);
  EXPECT_EQ(clocks(64, 1), (2 * (64 + 64) + 128 + 64) + 4);
  // A gradient's column scales: written once, read by 8 warps for 8 columns per clock.
  EXPECT_EQ(shared_clocks({128, 2, 2, 0}, true), (4 * (64 + 128) + 128 + 256) + 4 + 8 + 256);
}

TEST(ChooseShape, NoEstimateIsAboveWhatSharedMemoryAllows) {
  for (const GemmCase& c : v3_gemm_cases()) {
    for (const TileShape& s : compiled_shapes(c.weight_gradient)) {
      if (s.cluster > c.sms) continue;
      // Every block of 128 of every tile, spread over the SMs.
      const double tiles =
          static_cast<double>(ceil_div(c.m, 128) * ceil_div(c.n, s.width * s.halves) *
                              (c.weight_gradient ? c.groups() : 1));
      const double blocks =
          static_cast<double>(ceil_div(c.weight_gradient ? c.k / c.groups() : c.k, 128));
      EXPECT_GT(estimate_clocks(c.size(), s),
                tiles * blocks * shared_clocks(s, c.weight_gradient) / c.sms)
          << c.name << ", " << to_string(s);
    }
  }
}

TEST(ChooseShape, NoClustersWhereOtherKernelsHoldSms) {
  ProductSize size{.m = 4096, .n = 7168, .k = 16384, .sms = 112};
  EXPECT_EQ(choose_shape(size), (TileShape{128, 2, 2, 2}));
  size.shares_device = true;
  EXPECT_EQ(choose_shape(size), (TileShape{128, 2, 1, 2}));
  size.weight_gradient = true;
  EXPECT_EQ(choose_shape(size), (TileShape{128, 2, 1, 0}));
  size.sms = 1;
  size.shares_device = false;
  EXPECT_EQ(choose_shape(size).cluster, 1) << "a cluster of two does not fit";
}

// Measured on an H200: 11 tiles of 192 fit 2112 columns better than 9 of 256, which are fastest
// elsewhere.
TEST(ChooseShape, TakesTheTileThatFitsTheColumns) {
  EXPECT_EQ(choose_shape({.m = 4096, .n = 2112, .k = 7168}).width, 192);
  EXPECT_EQ(choose_shape({.m = 4096, .n = 4096, .k = 7168}), (TileShape{128, 2, 2, 2}));
}

}  // namespace
}  // namespace rehearse::kernels
