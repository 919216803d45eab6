// Every check of the GPU kernels, under imitation.

#include <gtest/gtest.h>

#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"
#include "kernels/layer_gpu/layer_check.h"

namespace rehearse::kernels {
namespace {

// Cases in order, by number: their names are sentences.
class GemmCases : public ::testing::TestWithParam<size_t> {};

TEST_P(GemmCases, AllShapesGiveTheModelsResults) {
  const GemmCase c = small_gemm_cases()[GetParam()];
  const auto target = imitated_target();
  for (const TileShape& shape : c.shapes()) {
    for (const GemmInputs inputs : {GemmInputs::kExact, GemmInputs::kRandom}) {
      const Outcome o = check_gemm(c, shape, inputs, *target, true);
      EXPECT_TRUE(o.passed) << o.name << ": " << o.found;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Imitated,
                         GemmCases,
                         ::testing::Range(size_t{0}, small_gemm_cases().size()));

// A sample; `kernels_check --random N` goes on as long as one likes.
TEST(GemmImitated, RandomSizesGiveTheModelsResults) {
  const auto target = imitated_target();
  for (uint64_t number = 1; number <= 8; ++number) {
    const GemmCase c = random_gemm_case(number);
    const TileShape shape = c.shapes()[number % c.shapes().size()];
    for (const GemmInputs inputs : {GemmInputs::kExact, GemmInputs::kRandom}) {
      const Outcome o = check_gemm(c, shape, inputs, *target, true);
      EXPECT_TRUE(o.passed) << o.name << ": " << o.found;
    }
  }
}

TEST(CastImitated, EqualsTheReferenceToTheBit) {
  const auto target = imitated_target();
  for (const CastCase& c : small_cast_cases()) {
    const Outcome o = check_cast(c, *target);
    EXPECT_TRUE(o.passed) << o.name << ": " << o.found;
  }
}

TEST(LayerImitated, EveryKernelIsWithinItsBound) {
  const auto target = imitated_target();
  for (const LayerCheck& c : layer_checks()) {
    const Outcome o = c.run(*target);
    EXPECT_TRUE(o.passed) << o.name << ": " << o.found;
  }
}

}  // namespace
}  // namespace rehearse::kernels
