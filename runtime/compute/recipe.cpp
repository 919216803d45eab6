#include "runtime/compute/recipe.h"

#include "base/errors.h"

namespace rehearse {

namespace {

// All of one format but for sums.
PrecisionRecipe uniform(DType type) {
  return {.products = {.activation = type, .weight = type, .gradient = type},
          .kept = type,
          .sent = type,
          .tokens_sent = type,
          .gradients_sent = type,
          .swiglu_inputs = type,
          .attention_output = type,
          .weights = type};
}

// Report, section 3.3: all three products of a linear in FP8 with tiles of 1 x 128, or 128 x 1
// along tokens, and blocks of weights; what goes to experts has scales that are powers of two, and
// so has what attention gives to the projection behind it.
PrecisionRecipe fp8(const Fp8Choices& c) {
  const bool powers = c.scales == Fp8Scales::kPowerOfTwo;
  const int64_t rows = c.gradient_tiles == GradientTiles::kBlocks ? kernels::kScaleBlock : 1;
  PrecisionRecipe r = uniform(DType::kBf16);
  r.products = {.activation = {DType::kFp8, {powers, 1}},
                .weight = {DType::kFp8Blocks, {powers, kernels::kScaleBlock}},
                .gradient = {DType::kFp8, {powers, rows}}};
  if (c.dispatch == Fp8Message::kFp8) {
    r.tokens_sent = {DType::kFp8, {true, 1}};
    r.gradients_sent = {DType::kFp8, {true, rows}};
  }
  if (c.swiglu_cache == SwigluCache::kFp8) r.swiglu_inputs = r.products.activation;
  switch (c.attention_cache) {
    case AttentionCache::kE5m6:
      r.attention_output = {DType::kE5m6, {true, 1}};
      break;
    case AttentionCache::kFp8:
      r.attention_output = {DType::kFp8, {true, 1}};
      break;
    case AttentionCache::kBf16:
      break;
  }
  if (c.products == Fp8Products::kTensorCore) {
    r.accumulation = {.bits = static_cast<int>(c.accumulator_bits), .promotion = c.promotion};
  }
  return r;
}

}  // namespace

PrecisionRecipe recipe_of(const Training& t) {
  PrecisionRecipe r = t.precision == Precision::kFp8    ? fp8(t.fp8)
                      : t.precision == Precision::kBf16 ? uniform(DType::kBf16)
                                                        : uniform(DType::kFp32);
  if (bytes_of(t).moment == 2) r.moments = DType::kBf16;
  return r;
}

}  // namespace rehearse
