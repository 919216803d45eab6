#include "plan/routing/counts.h"

#include <map>

#include <gtest/gtest.h>

#include "plan/testing.h"

namespace rehearse {
namespace {

// A token of DeepSeek-V3 on its way, by hand. 7168 values; out with 8 experts' weights and numbers
// of 4 bytes each, back with 8 weights' gradients. FP8 goes out with a scale of 4 bytes per 128
// values (56 of them) and comes back in BF16 (report, section 3.3.3).
TEST(Messages, SizesOfDeepSeekV3) {
  Plan plan = small_plan({});
  plan.model.architecture.hidden = 7168;
  plan.model.architecture.active_experts = 8;
  struct Sizes {
    int64_t dispatch_f, combine_f, combine_b, dispatch_b;
  };
  const std::map<Precision, Sizes> expected = {
      {Precision::kFp32, {28672 + 64, 28672, 28672, 28672 + 32}},
      {Precision::kBf16, {14336 + 64, 14336, 14336, 14336 + 32}},
      {Precision::kFp8, {7168 + 224 + 64, 14336, 7168 + 224, 14336 + 32}}};
  for (const auto& [precision, sizes] : expected) {
    plan.training.precision = precision;
    const auto size = [&](OpKind kind, Pass pass) {
      return exchange_message(plan, kind, pass).count();
    };
    EXPECT_EQ(size(OpKind::kDispatch, Pass::kForward), sizes.dispatch_f) << name_of(precision);
    EXPECT_EQ(size(OpKind::kCombine, Pass::kForward), sizes.combine_f) << name_of(precision);
    EXPECT_EQ(size(OpKind::kCombine, Pass::kInput), sizes.combine_b) << name_of(precision);
    EXPECT_EQ(size(OpKind::kDispatch, Pass::kInput), sizes.dispatch_b) << name_of(precision);
  }
}

}  // namespace
}  // namespace rehearse
