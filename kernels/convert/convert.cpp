#include "kernels/convert/convert.h"

namespace rehearse::kernels {

void convert(int64_t elements, const Bf16* from, float* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) to[i] = to_float(from[i]);
}

void convert(int64_t elements, const float* from, Bf16* to) {
#pragma omp simd
  for (int64_t i = 0; i < elements; ++i) to[i] = to_bf16(from[i]);
}

}  // namespace rehearse::kernels
