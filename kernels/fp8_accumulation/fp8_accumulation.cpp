#include "kernels/fp8_accumulation/fp8_accumulation.h"

#include <cmath>

#include "base/errors.h"
#include "kernels/formats/formats.h"

namespace rehearse::kernels {
namespace {

constexpr int64_t kPerBlock = kScaleBlock / kInstructionDepth;

float scale_of(const ScaledCodes& c, int64_t row, int64_t block) {
  return c.scales[row / c.scale_rows * c.row_step + block * c.block_step];
}

}  // namespace

void fp8_product(int64_t k,
                 const ScaledCodes& a,
                 const ScaledCodes& b,
                 const Accumulation& how,
                 bool add,
                 float* y) {
  CHECK(how.promotion >= 0 && how.promotion % kInstructionDepth == 0 && how.bits >= 1 &&
        how.bits <= 16)
      << how.bits << " bits, promoted every " << how.promotion;
  const TensorCoreRows rows(a.codes, a.rows, k);
  const TensorCoreRows columns(b.codes, b.rows, k);
  const int64_t instructions = rows.instructions();
  const int64_t between = how.promotion == 0 ? instructions : how.promotion / kInstructionDepth;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.rows; ++j) {
      float sum = 0;   // FP32
      float part = 0;  // in the tensor core, in units of `scale`
      float scale = 0;
      for (int64_t n = 0; n < instructions; ++n) {
        if (n % kPerBlock == 0) {
          const float next = scale_of(a, i, n / kPerBlock) * scale_of(b, j, n / kPerBlock);
          if (part != 0) part = cut_to_bits(part * (scale / next), how.bits);
          scale = next;
        }
        part = TensorCoreRows::sum(rows, i, columns, j, n, part, how.bits);
        if ((n + 1) % between == 0 || n + 1 == instructions) {
          sum = std::fma(part, scale, sum);
          part = 0;
        }
      }
      float& out = y[i * b.rows + j];
      out = add ? out + sum : sum;
    }
  }
}

}  // namespace rehearse::kernels
