#pragma once
// Values in device memory as a layer's kernels are given them: FP32 or BF16, decided where they are
// started. Arithmetic is in FP32; what is stored is rounded once, to nearest even.

#include <cstdint>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

struct ConstValues {
  ConstValues() = default;
  ConstValues(const float* p) : fp32(p) {}
  ConstValues(const Bf16* p) : bf16(p) {}
  const float* fp32 = nullptr;
  const Bf16* bf16 = nullptr;  // one of the two, or neither: nothing is there
};

struct Values {
  Values() = default;
  Values(float* p) : fp32(p) {}
  Values(Bf16* p) : bf16(p) {}
  REHEARSE_HOST_DEVICE operator ConstValues() const {
    ConstValues v;
    v.fp32 = fp32;
    v.bf16 = bf16;
    return v;
  }
  float* fp32 = nullptr;
  Bf16* bf16 = nullptr;
};

}  // namespace rehearse::kernels
