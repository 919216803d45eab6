#include "runtime/compute/recipe.h"

#include "base/errors.h"

namespace rehearse {

namespace {

// All of one format but for sums.
PrecisionRecipe uniform(DType type) {
  return {.products = {.activation = type, .weight = type, .gradient = type},
          .kept = type,
          .sent = type,
          .weights = type};
}

}  // namespace

PrecisionRecipe recipe_of(const Training& t) {
  CHECK(t.precision != Precision::kFp8) << "no recipe of the runtime is FP8's";
  PrecisionRecipe r = uniform(t.precision == Precision::kBf16 ? DType::kBf16 : DType::kFp32);
  if (t.moments == Moments::kBf16) r.moments = DType::kBf16;
  return r;
}

}  // namespace rehearse
