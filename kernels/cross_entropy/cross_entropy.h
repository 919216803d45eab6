#pragma once
// Softmax cross-entropy over a vocabulary.

#include <cstdint>
#include <span>

namespace rehearse::kernels {

// losses[t] = log(sum_v exp(logits[t, v])) - logits[t, target[t]], in nats.
// logits: [tokens, vocabulary]; losses: [tokens]; lse: [tokens], the logarithm, for the backward
// pass.
void cross_entropy(std::span<const int32_t> targets,
                   int64_t vocabulary,
                   const float* logits,
                   float* losses,
                   float* lse);

// logits become scale * (softmax(logits) - onehot(target)), in place.
void cross_entropy_backward(std::span<const int32_t> targets,
                            int64_t vocabulary,
                            float scale,
                            const float* lse,
                            float* logits);

void cross_entropy_reference(std::span<const int32_t> targets,
                             int64_t vocabulary,
                             const double* logits,
                             double* losses);

}  // namespace rehearse::kernels
