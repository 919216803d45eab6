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

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rehearse::kernels {

inline constexpr int kAccumulatorBits = 13;       // of mantissa
inline constexpr int64_t kInstructionDepth = 32;  // products that one instruction adds

// The sum before, and 32 products more of codes a and b.
float tensor_core_e4m3(const uint8_t* a, const uint8_t* b, float before);

// d[64, n] (+)= a[64, 32] b[n, 32]^T, row-major; the codes of a and b without gaps.
void tensor_core_e4m3(const uint8_t* a, const uint8_t* b, int n, bool accumulate, float* d);

// Rows of codes, [rows, k], taken apart once for many sums; a last instruction is filled with
// zeros.
class TensorCoreRows {
 public:
  TensorCoreRows(const uint8_t* codes, int64_t rows, int64_t k);
  int64_t instructions() const { return instructions_; }

  // What 32 products of a row of each make of the sum before, with an accumulator of `bits` of
  // mantissa.
  static float sum(const TensorCoreRows& a,
                   int64_t row,
                   const TensorCoreRows& b,
                   int64_t column,
                   int64_t instruction,
                   float before,
                   int bits = kAccumulatorBits);

 private:
  struct Part {
    std::array<float, kInstructionDepth> value;
    std::array<int32_t, kInstructionDepth> exponent;  // of the leading place
  };
  const Part& part(int64_t row, int64_t instruction) const {
    return parts_[static_cast<size_t>(row * instructions_ + instruction)];
  }
  static float sum(const Part& a, const Part& b, float before, int bits);

  int64_t instructions_;
  std::vector<Part> parts_;
};

// A value cut off (toward zero) to `bits` of mantissa, as an accumulator that has them.
float cut_to_bits(float x, int bits);

}  // namespace rehearse::kernels
