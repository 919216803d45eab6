#include "kernels/matmul/matmul.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(Matmul, AllThreeProductsAgreeWithTheReference) {
  Inputs inputs;
  for (const MatmulShape& s : std::vector<MatmulShape>{
           {1, 1, 1}, {1, 7, 3}, {5, 1, 9}, {17, 33, 65}, {128, 192, 96}, {64, 576, 512}}) {
    const auto x = inputs.normal(s.m * s.k);
    const auto w = inputs.normal(s.n * s.k);
    const auto dy = inputs.normal(s.m * s.n);
    std::vector<double> want(static_cast<size_t>(s.m * s.n));
    matmul_reference(s, x.data(), w.data(), want.data());
    Guarded y(s.m * s.n);
    matmul(s, floats(x).data(), floats(w).data(), y.data());
    expect_close(y.data(), want, sum_bound(s.k), "y");

    // dx = dy w is x w^T with w transposed; dw = dy^T x likewise.
    std::vector<double> w_t(w.size()), dy_t(dy.size()), x_t(x.size());
    for (int64_t n = 0; n < s.n; ++n) {
      for (int64_t k = 0; k < s.k; ++k) w_t[k * s.n + n] = w[n * s.k + k];
    }
    for (int64_t m = 0; m < s.m; ++m) {
      for (int64_t n = 0; n < s.n; ++n) dy_t[n * s.m + m] = dy[m * s.n + n];
      for (int64_t k = 0; k < s.k; ++k) x_t[k * s.m + m] = x[m * s.k + k];
    }
    std::vector<double> dx_want(x.size());
    matmul_reference({s.m, s.k, s.n}, dy.data(), w_t.data(), dx_want.data());
    Guarded dx(s.m * s.k);
    matmul_grad_input(s, floats(dy).data(), floats(w).data(), dx.data(), Store::kOverwrite);
    expect_close(dx.data(), dx_want, sum_bound(s.n), "dx");
    matmul_grad_input(s, floats(dy).data(), floats(w).data(), dx.data(), Store::kAccumulate);
    for (double& v : dx_want) v *= 2;
    expect_close(dx.data(), dx_want, 2 * sum_bound(s.n), "dx twice");

    std::vector<double> dw_want(w.size());
    matmul_reference({s.n, s.k, s.m}, dy_t.data(), x_t.data(), dw_want.data());
    Guarded dw(s.n * s.k, 1.0f);
    matmul_grad_weight(s, floats(dy).data(), floats(x).data(), dw.data());
    for (double& v : dw_want) v += 1;
    expect_close(dw.data(), dw_want, 2 * sum_bound(s.m), "dw");
  }
}

// As the same weights in FP32; the last shapes take several panels, the last of them short.
TEST(Matmul, WeightsInBf16) {
  Inputs inputs;
  for (const MatmulShape& s :
       std::vector<MatmulShape>{{1, 1, 1}, {17, 33, 65}, {9, 1000, 700}, {3, 5, 300'000}}) {
    const std::vector<float> x = floats(inputs.normal(s.m * s.k));
    const std::vector<float> dy = floats(inputs.normal(s.m * s.n));
    std::vector<float> w = floats(inputs.normal(s.n * s.k));
    std::vector<Bf16> narrow;
    for (float& value : w) {
      narrow.push_back(to_bf16(value));
      value = to_float(narrow.back());
    }
    std::vector<float> want(dy.size()), want_dx(x.size(), 1.0f);
    Guarded y(s.m * s.n), dx(s.m * s.k, 1.0f);
    matmul(s, x.data(), w.data(), want.data());
    matmul(s, x.data(), narrow.data(), y.data());
    expect_close(y.data(), std::vector<double>(want.begin(), want.end()), sum_bound(s.k), "y");
    for (const Store store : {Store::kAccumulate, Store::kOverwrite}) {
      matmul_grad_input(s, dy.data(), w.data(), want_dx.data(), store);
      matmul_grad_input(s, dy.data(), narrow.data(), dx.data(), store);
      expect_close(
          dx.data(), std::vector<double>(want_dx.begin(), want_dx.end()), sum_bound(s.n), "dx");
    }
  }
}

TEST(Matmul, NoRowsChangeNothing) {
  Guarded dw(12, 3.0f);
  matmul_grad_weight({0, 3, 4}, nullptr, nullptr, dw.data());
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(dw[i], 3.0f);
}

}  // namespace
}  // namespace rehearse::kernels
