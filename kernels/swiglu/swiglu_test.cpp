#include "kernels/swiglu/swiglu.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(Swiglu, ForwardAndBackwardWithAndWithoutRowWeights) {
  Inputs inputs;
  for (const SwigluShape& s : std::vector<SwigluShape>{{1, 1}, {3, 7}, {16, 2048}}) {
    for (const bool weighted : {false, true}) {
      const auto x = inputs.normal(2 * s.rows * s.width);
      const auto weight = inputs.normal(s.rows);
      const auto dy = inputs.normal(s.rows * s.width);
      const auto f = [&](const std::vector<double>& x_, const std::vector<double>& w_) {
        std::vector<double> y(dy.size());
        swiglu_reference(s, x_.data(), weighted ? w_.data() : nullptr, y.data());
        return y;
      };
      const std::vector<float> weights = floats(weight);
      const float* row_weight = weighted ? weights.data() : nullptr;
      Guarded y(s.rows * s.width), dx(2 * s.rows * s.width), dw(s.rows);
      swiglu(s, floats(x).data(), row_weight, y.data());
      expect_close(y.data(), f(x, weight), 1e-6, "y");
      swiglu_backward(s,
                      floats(dy).data(),
                      floats(x).data(),
                      row_weight,
                      dx.data(),
                      weighted ? dw.data() : nullptr);
      expect_gradient(
          inputs, [&](const auto& v) { return f(v, weight); }, x, dy, dx.data(), 1e-5, "dx");
      if (!weighted) continue;
      expect_gradient(
          inputs, [&](const auto& v) { return f(x, v); }, weight, dy, dw.data(), 1e-5, "dw");
    }
  }
}

}  // namespace
}  // namespace rehearse::kernels
