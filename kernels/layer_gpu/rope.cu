#include "kernels/layer_gpu/launch.h"
#include "kernels/layer_gpu/rope.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

void rope(const GpuRope& r, Stream stream) {
  const Arguments arguments("rope");
  arguments.require(r.width > 0 && r.width % 2 == 0,
                    "the width that turns is no positive even number");
  arguments.require(r.heads > 0 && (r.heads == 1 || r.head_stride >= r.width),
                    "heads lie closer than they are wide");
  arguments.require(r.first >= 0 && r.first + (r.heads - 1) * r.head_stride + r.width <= r.columns,
                    "heads reach beyond the row");
  arguments.require(r.length > 0, "no positions");
  if (r.rows == 0) return;
  ptx::launch<rope_kernel<GpuRope>>(grid_of(arguments, r.rows, kRowThreads), stream, r);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
