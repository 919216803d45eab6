// Precision is decided in one place: what a plan's recipe is, and a row that no plan has.

#include "runtime/compute/recipe.h"

#include <gtest/gtest.h>

#include "runtime/devices/cpu/cpu_compute.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

TEST(Recipe, FollowsFromThePlan) {
  Training t;
  EXPECT_EQ(recipe_of(t), PrecisionRecipe{});
  EXPECT_FALSE(recipe_of(t).masters());
  t.precision = Precision::kBf16;
  const PrecisionRecipe r = recipe_of(t);
  EXPECT_EQ(r.kept, DType::kBf16);
  EXPECT_EQ(r.sent, DType::kBf16);
  EXPECT_EQ(r.weights, DType::kBf16);
  EXPECT_EQ(r.products.gradient, DType::kBf16);
  EXPECT_EQ(r.weight_gradients, DType::kFp32);
  EXPECT_EQ(r.moments, DType::kFp32);
  EXPECT_TRUE(r.masters());
  t.moments = Moments::kBf16;
  EXPECT_EQ(recipe_of(t).moments, DType::kBf16);
  t.precision = Precision::kFp8;
  EXPECT_THROW(recipe_of(t), InternalError);
}

// Each operation reads arrays of the type that they have, weights of another one than activations:
// the product of BF16 rows and FP32 weights is the FP32 product of the rounded rows, rounded.
TEST(Recipe, OperandsHaveTheirOwnTypes) {
  BufferPool pool;
  const kernels::RopeTable rope(4, 4, 10000);
  const CpuCompute cores(pool, rope);
  const Compute& compute = cores;
  constexpr int64_t kRows = 5;
  constexpr int64_t kIn = 7;
  constexpr int64_t kOut = 3;
  Tensor x = compute.make(kRows, kIn, DType::kFp32);
  Tensor w = compute.make(kOut, kIn, DType::kFp32);
  for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = 0.37f * static_cast<float>(i % 11) - 1.3f;
  for (int64_t i = 0; i < w.size(); ++i) w.data()[i] = 0.21f * static_cast<float>(i % 5) - 0.4f;
  const Tensor narrow = compute.in_type(converted(x, DType::kFp32, pool), DType::kBf16);
  const Tensor rounded = converted(narrow, DType::kFp32, pool);
  const Tensor of_narrow = compute.product(narrow, w, DType::kFp32);
  const Tensor of_rounded = compute.product(rounded, w, DType::kFp32);
  const Tensor kept = compute.product(narrow, w, DType::kBf16);
  const Tensor kept_wide = converted(kept, DType::kFp32, pool);
  bool differs = false;
  for (int64_t i = 0; i < of_narrow.size(); ++i) {
    EXPECT_EQ(of_narrow.data()[i], of_rounded.data()[i]);
    const Tensor once = converted(converted(of_narrow, DType::kBf16, pool), DType::kFp32, pool);
    EXPECT_EQ(kept_wide.data()[i], once.data()[i]);
    differs = differs || kept_wide.data()[i] != of_narrow.data()[i];
  }
  EXPECT_TRUE(differs) << "nothing was rounded";
}

}  // namespace
}  // namespace rehearse
