#pragma once
// Where precision is decided: what is kept between ops, sent, multiplied, summed and updated, and
// in which format. Made from the plan, once; layers and devices ask it and nothing else. Source of
// the rows: FP32 is the reference; BF16 with FP32 sums and masters is mixed precision as
// Megatron-LM and DeepSeek-V3's report (section 3.3, what stays above FP8) have it; FP8 is that
// report's framework, sections 3.3.1 to 3.3.3, of which a plan's `fp8` section may state otherwise.

#include <optional>

#include "kernels/fp8_accumulation/fp8_accumulation.h"
#include "plan/plan.h"
#include "runtime/compute/compute.h"

namespace rehearse {

// The formats of a product's operands. Sums are in FP32 and rounded to the result's format once.
struct ProductFormats {
  Encoding activation;
  Encoding weight;
  Encoding gradient;  // of activations, where it is an operand
  bool fp8() const { return activation.type == DType::kFp8; }
  bool operator==(const ProductFormats&) const = default;
};

struct PrecisionRecipe {
  ProductFormats products;                // of every linear but the router and the head
  DType kept = DType::kFp32;              // what ops leave each other, gradients of it too
  DType sent = DType::kFp32;              // in messages that are sums, or between stages
  Encoding tokens_sent;                   // to experts, and multiplied there
  Encoding gradients_sent;                // likewise of what comes back from them
  Encoding swiglu_inputs;                 // as they wait for backward
  Encoding attention_output;              // likewise what attention's core gives
  DType weight_gradients = DType::kFp32;  // summed in it over micro-batches and ranks
  DType weights = DType::kFp32;           // as gathered; as products read them: products.weight
  DType moments = DType::kFp32;           // AdamW's
  // Sums of FP8 products as tensor cores make them; none: those of FP32.
  std::optional<kernels::Accumulation> accumulation;

  // Whether the optimizer updates FP32 masters, from which weights are rounded.
  bool masters() const { return weights != DType::kFp32; }
  // How a linear's weight gradient takes its operands, which are kept as these say.
  AlongTokens along_tokens(const Encoding& dy, const Encoding& x) const {
    return {.fp8 = products.fp8(), .dy = dy.scales, .x = x.scales};
  }
  bool operator==(const PrecisionRecipe&) const = default;
};

PrecisionRecipe recipe_of(const Training& training);

}  // namespace rehearse
