#include "kernels/layer_gpu/launch.h"
#include "kernels/layer_gpu/product.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

void product(const GpuProduct& p, Stream stream) {
  const Arguments arguments("product");
  arguments.require(p.m >= 0 && p.n > 0 && p.k >= 0, "a size is negative, or there are no columns");
  arguments.require(p.c_of == nullptr || (p.add && p.counts.rows != nullptr &&
                                          p.b_fp32_of == nullptr && p.b_bf16_of == nullptr),
                    "gradients of experts' weights are added to, over counted rows");
  arguments.require(p.c_of != nullptr || !p.add || p.c.fp32 != nullptr,
                    "what is added to is not FP32");
  arguments.require((p.b_fp32_of == nullptr && p.b_bf16_of == nullptr) || p.counts.rows != nullptr,
                    "matrices of experts without counts");
  const int64_t tiles = ceil_div(p.m, kProductTile) * ceil_div(p.n, kProductTile);
  if (tiles == 0) return;
  ptx::launch<product_kernel<GpuProduct>>(
      grid_of(arguments,
              tiles * (p.c_of != nullptr ? p.counts.experts : 1),
              kRowThreads,
              kProductShared),
      stream,
      p);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
