#pragma once
// SwiGLU on a GPU (kernels/swiglu/ says what it is), times a row's weight, and back.

#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// y = weight silu(gate) up.
struct GpuSwiglu {
  ConstValues gate_up;                 // [rows, 2 width], gate first
  const float* row_weights = nullptr;  // [rows], or null: 1
  Values y;                            // [rows, width]
  int64_t rows = 0, width = 0;         // rows: room for what there are
  RowCounts counts;
};

struct GpuSwigluBackward {
  ConstValues dy;       // [rows, width]
  ConstValues gate_up;  // [rows, 2 width]
  const float* row_weights = nullptr;
  Values d_gate_up;                // [rows, 2 width]
  float* d_row_weights = nullptr;  // [rows], null exactly where row_weights is
  int64_t rows = 0, width = 0;
  RowCounts counts;
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. No rows: nothing
// is.
namespace gpu {
void swiglu(const GpuSwiglu& s, Stream stream);
void swiglu_backward(const GpuSwigluBackward& s, Stream stream);
}  // namespace gpu
namespace imitated {
void swiglu(const GpuSwiglu& s, Stream stream);
void swiglu_backward(const GpuSwigluBackward& s, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
