#include "kernels/layer_gpu/launch.h"
#include "kernels/layer_gpu/rmsnorm.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

void rmsnorm(const GpuRmsNorm& n, Stream stream) {
  const Arguments arguments("rmsnorm");
  arguments.require(n.width > 0 && n.x_stride >= n.width, "x's rows are shorter than the gain");
  if (n.rows == 0) return;
  ptx::launch<rmsnorm_kernel<GpuRmsNorm>>(
      grid_of(arguments, n.rows, kRowThreads, kRowShared), stream, n);
}

void rmsnorm_backward(const GpuRmsNormBackward& n, Stream stream) {
  const Arguments arguments("rmsnorm_backward");
  arguments.require(n.width > 0 && n.x_stride >= n.width, "x's rows are shorter than the gain");
  arguments.require(n.partial != nullptr && n.d_gain != nullptr, "partial or d_gain is null");
  if (n.rows == 0) return;
  const int64_t across = ceil_div(n.width, kRowThreads);
  ptx::launch<rmsnorm_input_kernel<GpuRmsNormBackward>>(
      grid_of(arguments, n.rows, kRowThreads, kRowShared), stream, n);
  ptx::launch<rmsnorm_partial_kernel<GpuRmsNormBackward>>(
      grid_of(arguments, across * rmsnorm_chunks(n.rows), kRowThreads), stream, n);
  ptx::launch<rmsnorm_gain_kernel<GpuRmsNormBackward>>(
      grid_of(arguments, across, kRowThreads), stream, n);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
