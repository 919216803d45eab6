#pragma once
// On a GPU, value by value: sums in another type, tokens' rows of a table and their gradients,
// AdamW.

#include "kernels/adamw/adamw.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// y = x + first + second, one after the other, rounded once; y may be x, of the same type.
struct GpuSum {
  ConstValues x, first, second;  // the last two, or neither, or one
  Values y;
  int64_t elements = 0;
};

// x[t] = table[tokens[t]].
struct GpuEmbedding {
  const int32_t* tokens = nullptr;  // [count]
  ConstValues table;                // [vocabulary, width]
  Values x;                         // [count, width]
  int64_t count = 0, width = 0;
};
// d_table[tokens[t]] += dx[t], in the order of t.
struct GpuEmbeddingBackward {
  const int32_t* tokens = nullptr;
  ConstValues dx;            // [count, width]
  float* d_table = nullptr;  // [vocabulary, width]
  int64_t count = 0, width = 0;
};

// AdamW over all segments of an arena's shard, where the step's status allows it: the gradient's
// squares are finite and nothing else was counted (runtime/compute/compute.h). Else nothing
// changes.
struct GpuAdamW {
  struct Segment {
    int64_t begin = 0, end = 0;
    float keep = 1;  // 1 - learning rate times decay
  };
  AdamWSettings settings;          // but for decay and the gradient's scale
  double clip = 0;                 // of the gradient's norm; 0: none
  const double* status = nullptr;  // [status_size]: squares, then counts that must be 0
  int status_size = 1;
  const Segment* segments = nullptr;  // on the device, ascending, none empty
  int64_t segment_count = 0;
  const float* gradients = nullptr;  // [elements]
  float* weights = nullptr;          // updated
  Values m, v;                       // updated
  Values rounded;                    // weights in their own type, or nothing
  float* average = nullptr;          // moving average, or null
  float average_decay = 0;
  int64_t elements = 0;  // up to the last segment's end
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. Of nothing:
// nothing is.
namespace gpu {
void sum(const GpuSum& s, Stream stream);
void embedding(const GpuEmbedding& e, Stream stream);
void embedding_backward(const GpuEmbeddingBackward& e, Stream stream);
void adamw(const GpuAdamW& a, Stream stream);
}  // namespace gpu
namespace imitated {
void sum(const GpuSum& s, Stream stream);
void embedding(const GpuEmbedding& e, Stream stream);
void embedding_backward(const GpuEmbeddingBackward& e, Stream stream);
void adamw(const GpuAdamW& a, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
