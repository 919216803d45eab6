#include "kernels/cross_entropy/cross_entropy.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(CrossEntropy, ForwardAndBackward) {
  Inputs inputs;
  for (const auto& [tokens, vocabulary] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 2}, {7, 256}, {3, 129280}}) {
    const auto logits = inputs.normal(tokens * vocabulary, 3);
    const auto targets = inputs.indices(tokens, vocabulary);
    const auto f = [&, v = vocabulary](const std::vector<double>& x) {
      std::vector<double> losses(targets.size());
      cross_entropy_reference(targets, v, x.data(), losses.data());
      return losses;
    };
    Guarded losses(tokens), lse(tokens), d(tokens * vocabulary);
    const std::vector<float> x = floats(logits);
    cross_entropy(targets, vocabulary, x.data(), losses.data(), lse.data());
    expect_close(losses.data(), f(logits), 2e-6, "losses");
    std::copy(x.begin(), x.end(), d.data());
    constexpr float kScale = 0.25f;
    cross_entropy_backward(targets, vocabulary, kScale, lse.data(), d.data());
    expect_gradient(
        inputs, f, logits, std::vector<double>(targets.size(), kScale), d.data(), 1e-5, "d_logits");
  }
}

TEST(CrossEntropy, LargeLogitsDoNotOverflow) {
  const std::vector<float> logits = {1000.0f, 990.0f};
  const std::vector<int32_t> target = {1};
  float loss, lse;
  cross_entropy(target, 2, logits.data(), &loss, &lse);
  EXPECT_NEAR(loss, 10.0, 1e-3);
}

}  // namespace
}  // namespace rehearse::kernels
