#include <filesystem>

#include <gtest/gtest.h>

#include "base/file.h"
#include "sim/price/estimate.h"

namespace rehearse {
namespace {

KernelTime time_of(double us) {
  const Duration d = Duration::microseconds(us);
  return {.alone = d, .mean = d, .low = d, .high = d, .busy = d};
}

Calibration calibration() {
  return {.machine = "m",
          .cores = 2,
          .build = "b",
          .sources = "0123456789ab",
          .measured = "2026-01-31 13:05 UTC",
          .overheads = {.op_start = Duration::nanoseconds(300),
                        .wake_idle = Duration::microseconds(30),
                        .wake_busy = Duration::microseconds(3),
                        .message_idle = Duration::microseconds(80),
                        .message_busy = Duration::microseconds(200),
                        .collective = Duration::microseconds(45)},
          .drift = {0.99, 1, 1.02},
          .interpolation_error = 0.125};
}

TEST(Calibration, RoundTrips) {
  Calibration c = calibration();
  c.kernels[{Kernel::kMatmul, {100, 8, 4}}] = {.alone = Duration::picoseconds(10'001),
                                               .mean = Duration::picoseconds(10'002),
                                               .low = Duration::picoseconds(8'004),
                                               .high = Duration::picoseconds(20'005),
                                               .busy = Duration::picoseconds(12'006)};
  c.kernels[{Kernel::kCopy, {7}}] = time_of(3);
  const std::string path =
      (std::filesystem::temp_directory_path() / "rehearse_calibration_test.yaml").string();
  write_file(path, print_calibration(c));
  EXPECT_EQ(load_calibration(path), c);
  std::filesystem::remove(path);
}

TEST(Calibration, IsLinearBetweenRowsAndInProportionBeyond) {
  Calibration c = calibration();
  c.kernels[{Kernel::kMatmul, {100, 8, 4}}] = time_of(10);
  c.kernels[{Kernel::kMatmul, {200, 8, 4}}] = time_of(30);
  c.kernels[{Kernel::kMatmul, {150, 9, 4}}] = time_of(1000);
  const auto alone = [&](std::array<int64_t, 5> shape) {
    return estimate(c, {Kernel::kMatmul, shape})->time.alone;
  };
  EXPECT_EQ(alone({150, 8, 4}), Duration::microseconds(20));
  EXPECT_EQ(alone({50, 8, 4}), Duration::microseconds(5));
  EXPECT_EQ(alone({400, 8, 4}), Duration::microseconds(60));
  EXPECT_TRUE(estimate(c, {Kernel::kMatmul, {100, 8, 4}})->measured);
  EXPECT_FALSE(estimate(c, {Kernel::kMatmul, {150, 8, 4}})->measured);
  EXPECT_FALSE(estimate(c, {Kernel::kMatmul, {100, 8, 5}}));
}

// Costs linear in every entry of the shape: calls, rows, operands, products.
double product_us(double m, double n, double k) {
  return 1 + 0.01 * m + 1e-4 * (m * k + n * k + 2 * m * n) + 1e-5 * m * n * k;
}
// And quadratic in the length.
double attention_us(double length, double heads, double qk, double v) {
  return heads * length * (0.01 * (qk + v) + 1e-4 * length * (qk + 2 * v));
}

TEST(Calibration, TheGridIsExactForCostsOfTheirShape) {
  Calibration c = calibration();
  for (const KernelCall& call : grid_calls()) {
    const auto d = [&](size_t i) { return static_cast<double>(call.shape[i]); };
    if (call.kernel == Kernel::kMatmul) c.kernels[call] = time_of(product_us(d(0), d(1), d(2)));
    if (call.kernel == Kernel::kAttention) {
      c.kernels[call] = time_of(attention_us(d(1), d(2), d(3), d(4)));
    }
  }
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
           {100, 8 * 9, 300}, {3, 1000, 17}, {2000, 24, 777}, {64, 320, 256}}) {
    const double expected =
        product_us(static_cast<double>(m), static_cast<double>(n), static_cast<double>(k));
    EXPECT_NEAR(estimate(c, {Kernel::kMatmul, {m, n, k}})->time.alone.seconds() * 1e6,
                expected,
                1e-5 * expected);
  }
  // Two sequences cost as two calls; 2048 tokens, beyond the grid, as its last point does per key.
  EXPECT_NEAR(estimate(c, {Kernel::kAttention, {2, 200, 3, 48, 24}})->time.alone.seconds() * 1e6,
              2 * attention_us(200, 3, 48, 24),
              1e-3);
  EXPECT_NEAR(estimate(c, {Kernel::kAttention, {1, 2048, 4, 64, 32}})->time.alone.seconds() * 1e6,
              4 * attention_us(1024, 4, 64, 32),
              1e-2);
}

}  // namespace
}  // namespace rehearse
