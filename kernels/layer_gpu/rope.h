#pragma once
// Rotary position embedding on a GPU (kernels/rope/ says what it is): part of every head turns, the
// rest is copied, so that a result in another type needs no pass of its own.

#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"
#include "kernels/rope/rope.h"

namespace rehearse::kernels {

struct GpuRope {
  ConstValues x;                  // [rows, columns]
  Values y;                       // likewise, another array
  const float* cosine = nullptr;  // [length, width / 2]
  const float* sine = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t length = 0;  // positions: row i has i mod length
  int64_t heads = 1, head_stride = 0;
  int64_t first = 0;  // column of head 0 from which on `width` turn
  int64_t width = 0;  // even
  RopePairs pairs = RopePairs::kNeighbours;
  Turn turn = Turn::kForward;
};

// Throws std::invalid_argument, naming what is wrong, before anything is started. No rows: nothing
// is.
namespace gpu {
void rope(const GpuRope& r, Stream stream);
}  // namespace gpu
namespace imitated {
void rope(const GpuRope& r, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
