#include "runtime/compute/yarn.h"

#include <cmath>

#include <gtest/gtest.h>

namespace rehearse {
namespace {

Model stretched() {
  Model m;
  m.architecture.qk_rope = 16;
  m.architecture.rope_theta = 10000;
  m.rope_scaling = RopeScaling::kYarn;
  m.yarn = Yarn{.factor = 40, .original_length = 64, .beta_fast = 4, .beta_slow = 1};
  return m;
}

// transformers' _compute_yarn_parameters, worked out apart: base 10000, 16 wide, 40 x 64 positions.
TEST(Yarn, FrequenciesWithWholeAndBrokenPairs) {
  Model m = stretched();
  const auto near = [&](const std::vector<double>& expected) {
    const std::vector<double> found = rope_frequencies(m);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i], expected[i], 1e-9 * expected[i]) << i;
    }
  };
  const double last = 7.905694150e-6;
  near({1, 0.2134537421, 0.035, 7.905694150e-4, 2.5e-4, 7.905694150e-5, 2.5e-5, last});
  m.yarn->truncate = false;
  near({1, 0.2680585815, 0.003795569062, 7.905694150e-4, 2.5e-4, 7.905694150e-5, 2.5e-5, last});
}

TEST(Yarn, TheStatedFactorOverridesTheOthers) {
  Model m = stretched();
  EXPECT_DOUBLE_EQ(rope_amplitude(m), 0.1 * std::log(40.0) + 1);
  m.yarn->mscale = m.yarn->mscale_all_dim = 1;
  EXPECT_DOUBLE_EQ(rope_amplitude(m), 1);
  const double softmax = softmax_factor(m);
  m.yarn->attention_factor = 2;
  EXPECT_DOUBLE_EQ(rope_amplitude(m), 2);
  EXPECT_DOUBLE_EQ(softmax_factor(m), softmax);
  m.yarn.reset();
  EXPECT_DOUBLE_EQ(rope_amplitude(m), 1);
}

}  // namespace
}  // namespace rehearse
