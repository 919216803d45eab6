#include "kernels/rope/rope.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(Rope, TurnsPairsAndTurnsThemBack) {
  Inputs inputs;
  constexpr double kTheta = 10000;
  const RopeTable table(5, 6, kTheta);
  for (const RopePairs pairs : {RopePairs::kNeighbours, RopePairs::kHalves}) {
    const RopeShape s{.rows = 10, .heads = 3, .row_stride = 30, .head_stride = 10, .pairs = pairs};
    const auto x = inputs.normal(s.rows * s.row_stride);
    std::vector<double> want = x;
    rope_reference(s, table, kTheta, want.data());
    EXPECT_NE(want, x);
    std::vector<float> got = floats(x);
    rope(s, table, Turn::kForward, got.data());
    expect_close(got.data(), want, 1e-6, "x");
    // A rotation's inverse is its transpose: the backward turn undoes it.
    rope(s, table, Turn::kBackward, got.data());
    expect_close(got.data(), x, 2e-6, "back");
  }
}

TEST(Rope, TheDotProductDependsOnTheDistanceAlone) {
  Inputs inputs;
  const RopeTable table(32, 16, 10000);
  const auto q = inputs.normal(16);
  const auto k = inputs.normal(16);
  const auto dot_at = [&](int64_t tq, int64_t tk) {
    std::vector<float> rows(32 * 16, 0.0f), keys(32 * 16, 0.0f);
    for (int64_t j = 0; j < 16; ++j) {
      rows[static_cast<size_t>(tq * 16 + j)] = static_cast<float>(q[static_cast<size_t>(j)]);
      keys[static_cast<size_t>(tk * 16 + j)] = static_cast<float>(k[static_cast<size_t>(j)]);
    }
    const RopeShape s{.rows = 32, .heads = 1, .row_stride = 16, .head_stride = 16};
    rope(s, table, Turn::kForward, rows.data());
    rope(s, table, Turn::kForward, keys.data());
    double dot = 0;
    for (int64_t j = 0; j < 16; ++j) {
      dot += static_cast<double>(rows[static_cast<size_t>(tq * 16 + j)]) *
             static_cast<double>(keys[static_cast<size_t>(tk * 16 + j)]);
    }
    return dot;
  };
  EXPECT_NEAR(dot_at(7, 3), dot_at(31, 27), 1e-5);
  EXPECT_GT(std::abs(dot_at(7, 3) - dot_at(7, 6)), 1e-3);
}

}  // namespace
}  // namespace rehearse::kernels
