#pragma once
// What a Hopper tensor core makes of one wgmma.m64nNk32 of E4M3 operands, after what is known of
// it.
//
// The model: the 32 products and the sum so far are aligned to the largest exponent among them,
// cut off (toward zero) 13 bits below it, added exactly, and the result is cut off to 13 bits of
// mantissa. "About 14 bits": DeepSeek-V3 report, section 3.3.2; FP22 (1-8-13) and truncation as
// measured by F. Khattak and M. Mikaitis, "Accurate Models of NVIDIA Tensor Cores" (2025), and by
// others before. Where no bit is cut off it is exact, on hardware as here; elsewhere hardware may
// differ in the last bits, so that checks go by bounds (kernels/fp8_gemm/).

#include <cstdint>

namespace rehearse::kernels {

inline constexpr int kAccumulatorBits = 13;  // of mantissa

// The sum before, and 32 products more of codes a and b.
float tensor_core_e4m3(const uint8_t* a, const uint8_t* b, float before);

// d[64, n] (+)= a[64, 32] b[n, 32]^T, row-major; the codes of a and b without gaps.
void tensor_core_e4m3(const uint8_t* a, const uint8_t* b, int n, bool accumulate, float* d);

}  // namespace rehearse::kernels
