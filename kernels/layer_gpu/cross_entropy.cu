#include "kernels/layer_gpu/cross_entropy.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {

void cross_entropy(const GpuCrossEntropy& c, Stream stream) {
  const Arguments arguments("cross_entropy");
  arguments.require(c.vocabulary > 0, "no vocabulary");
  if (c.tokens == 0) return;
  ptx::launch<cross_entropy_kernel<GpuCrossEntropy>>(
      grid_of(arguments, c.tokens, kRowThreads, kRowShared), stream, c);
}

void cross_entropy_backward(const GpuCrossEntropyBackward& c, Stream stream) {
  const Arguments arguments("cross_entropy_backward");
  arguments.require(c.vocabulary > 0, "no vocabulary");
  if (c.tokens == 0) return;
  ptx::launch<cross_entropy_input_kernel<GpuCrossEntropyBackward>>(
      grid_of(arguments, c.tokens, kRowThreads), stream, c);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
