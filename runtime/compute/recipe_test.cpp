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
  EXPECT_EQ(r.products.gradient, Encoding(DType::kBf16));
  EXPECT_EQ(r.weight_gradients, DType::kFp32);
  EXPECT_EQ(r.moments, DType::kFp32);
  EXPECT_TRUE(r.masters());
  t.moments = Moments::kBf16;
  EXPECT_EQ(recipe_of(t).moments, DType::kBf16);
}

// Report, section 3.3: what is FP8 and with which tiles, what stays BF16; and each deviation alone.
TEST(Recipe, OfFp8IsTheReports) {
  Training t;
  t.precision = Precision::kFp8;
  const PrecisionRecipe r = recipe_of(t);
  constexpr kernels::ScaleRule kPowers{.power_of_two = true};
  EXPECT_EQ(r.products.activation, Encoding(DType::kFp8));
  EXPECT_EQ(r.products.gradient, Encoding(DType::kFp8));
  EXPECT_EQ(r.products.weight.type, DType::kFp8Blocks);
  EXPECT_EQ(r.kept, DType::kBf16);
  EXPECT_EQ(r.sent, DType::kBf16);
  EXPECT_EQ(r.tokens_sent, Encoding(DType::kFp8, kPowers));
  EXPECT_EQ(r.gradients_sent, Encoding(DType::kFp8, kPowers));
  EXPECT_EQ(r.swiglu_inputs, Encoding(DType::kFp8));
  EXPECT_EQ(r.attention_output, Encoding(DType::kE5m6, kPowers));
  EXPECT_EQ(r.weight_gradients, DType::kFp32);
  EXPECT_EQ(r.moments, DType::kBf16);
  EXPECT_TRUE(r.masters());
  EXPECT_FALSE(r.accumulation);
  const auto with = [&](auto change) {
    Training other = t;
    change(other.fp8);
    return recipe_of(other);
  };
  PrecisionRecipe blocks = with([](Fp8Choices& c) { c.gradient_tiles = GradientTiles::kBlocks; });
  EXPECT_EQ(blocks.products.gradient.scales.rows, 128);
  EXPECT_EQ(blocks.gradients_sent.scales.rows, 128);
  blocks.products.gradient = r.products.gradient;
  blocks.gradients_sent = r.gradients_sent;
  EXPECT_EQ(blocks, r) << "and nothing else";
  const PrecisionRecipe cores = with([](Fp8Choices& c) {
    c.products = Fp8Products::kTensorCore;
    c.promotion = 0;
    c.accumulator_bits = 14;
  });
  EXPECT_EQ(cores.accumulation, (kernels::Accumulation{.bits = 14, .promotion = 0}));
  EXPECT_EQ(with([](Fp8Choices& c) { c.attention_cache = AttentionCache::kBf16; }).attention_output,
            Encoding(DType::kBf16));
  EXPECT_EQ(with([](Fp8Choices& c) { c.swiglu_cache = SwigluCache::kBf16; }).swiglu_inputs,
            Encoding(DType::kBf16));
  EXPECT_EQ(with([](Fp8Choices& c) { c.dispatch = Fp8Message::kBf16; }).tokens_sent,
            Encoding(DType::kBf16));
  EXPECT_TRUE(with([](Fp8Choices& c) {
                c.scales = Fp8Scales::kPowerOfTwo;
              }).products.weight.scales.power_of_two);
  t.moments = Moments::kFp32;
  EXPECT_EQ(recipe_of(t).moments, DType::kFp32);
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
