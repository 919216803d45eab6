#pragma once
// Rows of experts on a GPU: how many each has is known to the device alone. Experts' rows stand one
// after the other, each padded to a multiple of 128 (kernels/fp8_gemm/), from the first on.

#include <cstdint>

namespace rehearse::kernels {

inline constexpr int64_t kRowsPadded = 128;

struct RowCounts {
  const int32_t* rows = nullptr;  // [experts], on the device; null: all rows are there
  int experts = 0;
};

}  // namespace rehearse::kernels
