#pragma once
// Softmax cross-entropy on a GPU (kernels/cross_entropy/ says what it is), and back.

#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// losses[t] = lse[t] - logits[t, targets[t]], 0 where the target is negative: there is none.
struct GpuCrossEntropy {
  const int32_t* targets = nullptr;  // [tokens]
  const float* logits = nullptr;     // [tokens, vocabulary]
  float* losses = nullptr;           // [tokens]
  float* lse = nullptr;              // [tokens]
  int64_t tokens = 0, vocabulary = 0;
};

// logits become scale (softmax - one at the target), zeros where there is none; in place.
struct GpuCrossEntropyBackward {
  const int32_t* targets = nullptr;
  const float* lse = nullptr;
  float* logits = nullptr;
  float scale = 0;
  int64_t tokens = 0, vocabulary = 0;
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. No tokens: nothing
// is.
namespace gpu {
void cross_entropy(const GpuCrossEntropy& c, Stream stream);
void cross_entropy_backward(const GpuCrossEntropyBackward& c, Stream stream);
}  // namespace gpu
namespace imitated {
void cross_entropy(const GpuCrossEntropy& c, Stream stream);
void cross_entropy_backward(const GpuCrossEntropyBackward& c, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
