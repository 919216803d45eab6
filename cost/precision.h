#pragma once
// What a training precision means in bytes, in one table.

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/names.h"
#include "cost/gpu_work.h"

namespace rehearse {

enum class Precision : uint8_t { kFp32, kBf16, kFp8 };

// Bytes per element, but for what says otherwise.
struct PrecisionBytes {
  Precision precision = Precision::kFp32;
  int64_t weight = 4;      // as computed with
  int64_t master = 0;      // FP32 copy, where weights are not that themselves
  int64_t moment = 4;      // each of AdamW's two
  int64_t activation = 4;  // what kernels read and write
  int64_t message = 4;     // between stages, from experts back, weights gathered
  // Of what GPUs keep for backward: inputs of products, and that of the projection behind attention
  // (report, section 3.3.3: E5M6).
  double kept_input = 2, kept_output_input = 2;
  std::optional<Format> linears;  // of GPUs' products; none: GPUs are not priced in it
};
const PrecisionBytes& bytes_of(Precision precision);
// A token of `hidden` values on its way to experts: FP8 has a scale per 128 (report,
// section 3.3.3).
int64_t dispatched_bytes(Precision precision, int64_t hidden);

inline constexpr NameTable kPrecisions{std::to_array<Named<Precision>>(
    {{Precision::kFp32, "fp32"}, {Precision::kBf16, "bf16"}, {Precision::kFp8, "fp8"}})};
static_assert(kPrecisions.complete());
std::string_view name_of(Precision precision);

}  // namespace rehearse
