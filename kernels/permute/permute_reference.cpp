#include "kernels/permute/permute.h"

namespace rehearse::kernels {

void unpermute_reference(const UnpermuteShape& s,
                         const int32_t* row_of,
                         const double* rows,
                         double* out) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int64_t j = 0; j < s.width; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < s.active; ++k) {
        const int32_t row = row_of[t * s.active + k];
        if (row != kNoRow) sum += rows[row * s.width + j];
      }
      out[t * s.width + j] = sum;
    }
  }
}

}  // namespace rehearse::kernels
