#pragma once
// Where precision is decided: what is kept between ops, sent, multiplied, summed and updated, and
// in which format. Made from the plan, once; layers and devices ask it and nothing else. Source of
// the two rows: FP32 is the reference; BF16 with FP32 sums and masters is mixed precision as
// Megatron-LM and DeepSeek-V3's report (section 3.3, what stays above FP8) have it.

#include "plan/plan.h"
#include "runtime/memory/array.h"

namespace rehearse {

// The formats of a product's operands. Sums are in FP32 and rounded to the result's format once.
struct ProductFormats {
  DType activation = DType::kFp32;
  DType weight = DType::kFp32;
  DType gradient = DType::kFp32;  // of activations, where it is an operand
  bool operator==(const ProductFormats&) const = default;
};

struct PrecisionRecipe {
  ProductFormats products;                // of every linear but the router and the head's sums
  DType kept = DType::kFp32;              // what ops leave each other, gradients of it too
  DType sent = DType::kFp32;              // in messages; a token's weights travel exactly
  DType weight_gradients = DType::kFp32;  // summed in it over micro-batches and ranks
  DType weights = DType::kFp32;           // as products read them
  DType moments = DType::kFp32;           // AdamW's
  // Whether the optimizer updates FP32 masters, from which weights are rounded.
  bool masters() const { return weights != DType::kFp32; }
  bool operator==(const PrecisionRecipe&) const = default;
};

// Throws InternalError for a precision that no device of the runtime computes in.
PrecisionRecipe recipe_of(const Training& training);

}  // namespace rehearse
