#include "kernels/rmsnorm/rmsnorm.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(RmsNorm, ForwardAndBackward) {
  Inputs inputs;
  for (const RmsNormShape& s : std::vector<RmsNormShape>{
           {1, 1, 1, 1e-6}, {3, 5, 8, 1e-6}, {4, 512, 576, 1e-6}, {2, 7168, 7168, 1e-6}}) {
    const auto x = inputs.normal(s.rows * s.x_stride);
    const auto gain = inputs.normal(s.width);
    const auto dy = inputs.normal(s.rows * s.width);
    const auto addend = inputs.normal(s.rows * s.x_stride);
    std::vector<double> want(static_cast<size_t>(s.rows * s.width));
    rmsnorm_reference(s, x.data(), gain.data(), want.data());
    Guarded y(s.rows * s.width), inverse(s.rows);
    rmsnorm(s, floats(x).data(), floats(gain).data(), y.data(), inverse.data());
    expect_close(y.data(), want, 1e-5, "y");

    Guarded dx(s.rows * s.x_stride, 0), dgain(s.width, 0);
    rmsnorm_backward(s,
                     floats(dy).data(),
                     floats(x).data(),
                     floats(gain).data(),
                     inverse.data(),
                     nullptr,
                     dx.data(),
                     dgain.data());
    const auto of_x = [&](const std::vector<double>& v) {
      std::vector<double> out(want.size());
      rmsnorm_reference(s, v.data(), gain.data(), out.data());
      return out;
    };
    const auto of_gain = [&](const std::vector<double>& v) {
      std::vector<double> out(want.size());
      rmsnorm_reference(s, x.data(), v.data(), out.data());
      return out;
    };
    if (s.width > 1) expect_gradient(inputs, of_x, x, dy, dx.data(), 1e-5, "dx");
    expect_gradient(inputs, of_gain, gain, dy, dgain.data(), 1e-5, "dgain");

    Guarded sum(s.rows * s.x_stride, 0);
    rmsnorm_backward(s,
                     floats(dy).data(),
                     floats(x).data(),
                     floats(gain).data(),
                     inverse.data(),
                     floats(addend).data(),
                     sum.data(),
                     dgain.data());
    for (int64_t i = 0; i < s.rows; ++i) {
      for (int64_t j = 0; j < s.width; ++j) {
        const int64_t at = i * s.x_stride + j;
        EXPECT_NEAR(sum[at], dx[at] + static_cast<float>(addend[at]), 1e-5);
      }
    }
  }
}

}  // namespace
}  // namespace rehearse::kernels
