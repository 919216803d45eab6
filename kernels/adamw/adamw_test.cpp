#include "kernels/adamw/adamw.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(AdamW, FollowsTheReferenceOverSteps) {
  Inputs inputs;
  constexpr int64_t kElements = 1037;
  std::vector<double> w = inputs.normal(kElements), m(kElements, 0.0), v(kElements, 0.0);
  std::vector<float> fw = floats(w), fm = floats(m), fv = floats(v);
  for (int64_t step = 1; step <= 20; ++step) {
    const auto gradient = inputs.normal(kElements, 1e-3);
    const AdamWSettings s{
        .learning_rate = 1e-2, .weight_decay = 0.1, .gradient_scale = 0.5, .step = step};
    adamw_reference(s, kElements, gradient.data(), w.data(), m.data(), v.data());
    adamw(s, kElements, floats(gradient).data(), fw.data(), fm.data(), fv.data());
  }
  expect_close(fw.data(), w, 1e-5, "weights");
}

// A moment stops short of what it averages where a step would change it by less than half of its
// last place, at most 2^-8 of it: 2^-8 / (1 - beta), 3.9% of m and 7.8% of v, so that an update is
// off by 3.9% + 7.8% / 2 at most.
TEST(AdamW, MomentsInBf16) {
  Inputs inputs;
  constexpr int64_t kElements = 1037;
  std::vector<double> w = inputs.normal(kElements), m(kElements, 0.0), v(kElements, 0.0);
  const std::vector<double> begin = w;
  std::vector<float> fw = floats(w);
  std::vector<Bf16> bm(kElements), bv(kElements);
  const auto steady = inputs.normal(kElements, 1e-3);  // the same each step: v grows to its square
  for (int64_t step = 1; step <= 100; ++step) {
    const AdamWSettings s{.learning_rate = 1e-3, .step = step};
    adamw_reference(s, kElements, steady.data(), w.data(), m.data(), v.data());
    adamw(s, kElements, floats(steady).data(), fw.data(), bm.data(), bv.data());
  }
  for (size_t i = 0; i < w.size(); ++i) {
    const double moved = w[i] - begin[i];
    EXPECT_NEAR(static_cast<double>(fw[i]) - begin[i], moved, 0.078 * std::abs(moved));
    EXPECT_NEAR(static_cast<double>(to_float(bv[i])), v[i], 0.078 * v[i]);
  }
}

TEST(AdamW, TheFirstStepIsTheLearningRate) {
  // m_hat / sqrt(v_hat) = sign(g) after one step, whatever g's size.
  float w = 1, m = 0, v = 0;
  const float gradient = 1e-4f;
  adamw({.learning_rate = 0.1, .step = 1}, 1, &gradient, &w, &m, &v);
  EXPECT_NEAR(w, 0.9, 1e-4);
}

TEST(AdamW, SquareSum) {
  Inputs inputs;
  const auto x = inputs.normal(5000);
  double want = 0;
  for (const double a : x) want += a * a;
  EXPECT_NEAR(square_sum(5000, floats(x).data()), want, 1e-9 * want);
}

}  // namespace
}  // namespace rehearse::kernels
