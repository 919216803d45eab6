#include "kernels/fp8_accumulation/fp8_accumulation.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/random.h"
#include "kernels/fp8_gemm/fp8_gemm.h"
#include "kernels/quantize/quantize.h"

namespace rehearse::kernels {
namespace {

struct Problem {
  int64_t m = 5, n = 130, k = 416;  // the last block of k is a short one
  std::vector<uint8_t> x, w;
  std::vector<float> x_scales, w_scales;
  std::vector<double> exact;  // of the codes

  Problem() {
    Random random(5);
    const auto blocks = static_cast<size_t>((k + 127) / 128);
    std::vector<float> a(static_cast<size_t>(m * k));
    std::vector<Bf16> b(static_cast<size_t>(n * k));
    for (float& v : a) v = static_cast<float>(random.normal() * std::exp2(random.normal()));
    for (Bf16& v : b) v = to_bf16(static_cast<float>(random.normal()));
    x.resize(a.size());
    w.resize(b.size());
    x_scales.resize(blocks * 8);
    w_scales.resize(blocks * 2);
    quantize_rows(m, k, a.data(), {}, x.data(), x_scales.data(), 8);
    quantize_blocks(n, k, b.data(), false, w.data(), w_scales.data());
    std::vector<float> decoded_x(a.size()), decoded_w(b.size());
    dequantize_rows(m, k, x.data(), x_scales.data(), 8, decoded_x.data());
    dequantize_blocks(0, n, k, w.data(), w_scales.data(), decoded_w.data());
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          sum += static_cast<double>(decoded_x[static_cast<size_t>(i * k + l)]) *
                 static_cast<double>(decoded_w[static_cast<size_t>(j * k + l)]);
        }
        exact.push_back(sum);
      }
    }
  }

  std::vector<float> product(const Accumulation& how) const {
    std::vector<float> y(static_cast<size_t>(m * n));
    fp8_product(k,
                ScaledCodes::of_tiles(m, x.data(), x_scales.data(), 8),
                ScaledCodes::of_blocks(n, k, w.data(), w_scales.data()),
                how,
                false,
                y.data());
    return y;
  }
  double error(const Accumulation& how) const {
    const std::vector<float> y = product(how);
    double squares = 0, all = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      squares += std::pow(static_cast<double>(y[i]) - exact[i], 2);
      all += exact[i] * exact[i];
    }
    return std::sqrt(squares / all);
  }
};

TEST(Fp8Accumulation, EveryBlockPromotedIsTheHopperKernelsReference) {
  const Problem p;
  const Fp8Product reference{.x = p.x.data(),
                             .x_scales = p.x_scales.data(),
                             .x_scale_stride = 8,
                             .w = p.w.data(),
                             .w_scales = p.w_scales.data(),
                             .m = p.m,
                             .n = p.n,
                             .k = p.k};
  const std::vector<float> y = p.product({});
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      EXPECT_EQ(y[static_cast<size_t>(i * p.n + j)],
                fp8_gemm_element(reference, 0, i, j, BlockSums::kTensorCore));
    }
  }
}

TEST(Fp8Accumulation, MoreBitsAndMorePromotionsAreCloser) {
  const Problem p;
  EXPECT_LT(p.error({.bits = 15}), p.error({.bits = 13}));
  EXPECT_LT(p.error({.bits = 13}), p.error({.bits = 11}));
  EXPECT_LT(p.error({.promotion = 32}), p.error({.promotion = 128}));
  EXPECT_LT(p.error({.promotion = 128}), p.error({.promotion = 0}));
  // An interval as long as the sum is none; and the error is what 13 bits allow: each of 13
  // instructions cuts 33 values and the sum below 2^-13 of the largest.
  EXPECT_EQ(p.product({.promotion = 416}), p.product({.promotion = 0}));
  EXPECT_LT(p.error({.promotion = 0}), 13 * 34 * 0x1p-13);
}

TEST(Fp8Accumulation, AddsAndRefuses) {
  const Problem p;
  const ScaledCodes x = ScaledCodes::of_tiles(p.m, p.x.data(), p.x_scales.data(), 8);
  const ScaledCodes w = ScaledCodes::of_blocks(p.n, p.k, p.w.data(), p.w_scales.data());
  std::vector<float> y(static_cast<size_t>(p.m * p.n), 1);
  fp8_product(p.k, x, w, {}, true, y.data());
  const std::vector<float> once = p.product({});
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], 1 + once[i]);
  EXPECT_THROW(fp8_product(p.k, x, w, {.promotion = 48}, false, y.data()), InternalError);
  EXPECT_THROW(fp8_product(p.k, x, w, {.bits = 17}, false, y.data()), InternalError);
}

}  // namespace
}  // namespace rehearse::kernels
