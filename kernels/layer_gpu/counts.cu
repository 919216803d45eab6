#include "kernels/layer_gpu/counts.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {

void count(const GpuCount& c, Stream stream) {
  const Arguments arguments("count");
  if (c.experts == 0) return;
  ptx::launch<count_kernel<GpuCount>>(
      grid_of(arguments, ceil_div(c.experts, kRowThreads), kRowThreads), stream, c);
}

void update_bias(const GpuUpdateBias& u, Stream stream) {
  const Arguments arguments("update_bias");
  if (u.experts == 0) return;
  ptx::launch<update_bias_kernel<GpuUpdateBias>>(grid_of(arguments, 1, kRowThreads), stream, u);
}

void weights_of_chosen(const GpuWeightsOfChosen& w, Stream stream) {
  const Arguments arguments("weights_of_chosen");
  if (w.tokens == 0) return;
  ptx::launch<weights_of_chosen_kernel<GpuWeightsOfChosen>>(
      grid_of(arguments, ceil_div(w.tokens, kRowThreads), kRowThreads), stream, w);
}

void count_bad(const GpuCountBad& c, Stream stream) {
  const Arguments arguments("count_bad");
  ptx::launch<bad_partial_kernel<GpuCountBad>>(
      grid_of(arguments, kBadBlocks, kRowThreads, kRowShared), stream, c);
  ptx::launch<bad_kernel<GpuCountBad>>(grid_of(arguments, 1, 32), stream, c);
}

void total(const GpuTotal& t, Stream stream) {
  const Arguments arguments("total");
  const int given = (t.fp32 != nullptr) + (t.fp64 != nullptr) + (t.int64 != nullptr);
  arguments.require(given == 1 || t.elements == 0, "values of one type are summed");
  ptx::launch<total_kernel<GpuTotal>>(
      grid_of(arguments, 1, kRowThreads, kRowThreads * 8), stream, t);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
