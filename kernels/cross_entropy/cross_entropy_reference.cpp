#include <cmath>

#include "kernels/cross_entropy/cross_entropy.h"

namespace rehearse::kernels {

void cross_entropy_reference(std::span<const int32_t> targets,
                             int64_t vocabulary,
                             const double* logits,
                             double* losses) {
  for (size_t t = 0; t < targets.size(); ++t) {
    const double* row = logits + static_cast<int64_t>(t) * vocabulary;
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(row[v] - row[targets[t]]);
    losses[t] = std::log(sum);
  }
}

}  // namespace rehearse::kernels
