#include "kernels/cross_entropy/cross_entropy.h"

#include <cmath>

#include <Eigen/Core>

namespace rehearse::kernels {

void cross_entropy(std::span<const int32_t> targets,
                   int64_t vocabulary,
                   const float* logits,
                   float* losses,
                   float* lse) {
  for (size_t t = 0; t < targets.size(); ++t) {
    const Eigen::Map<const Eigen::ArrayXf> row(logits + static_cast<int64_t>(t) * vocabulary,
                                               vocabulary);
    const float most = row.maxCoeff();
    lse[t] = most + std::log((row - most).exp().sum());
    losses[t] = lse[t] - row[targets[t]];
  }
}

void cross_entropy_backward(std::span<const int32_t> targets,
                            int64_t vocabulary,
                            float scale,
                            const float* lse,
                            float* logits) {
  for (size_t t = 0; t < targets.size(); ++t) {
    Eigen::Map<Eigen::ArrayXf> row(logits + static_cast<int64_t>(t) * vocabulary, vocabulary);
    row = (row - lse[t]).exp() * scale;
    row[targets[t]] -= scale;
  }
}

}  // namespace rehearse::kernels
