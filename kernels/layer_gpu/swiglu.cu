#include "kernels/layer_gpu/launch.h"
#include "kernels/layer_gpu/swiglu.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

void require_counts(const Arguments& arguments, const RowCounts& counts) {
  arguments.require(counts.rows == nullptr || counts.experts > 0, "counts of no experts");
}

}  // namespace

void swiglu(const GpuSwiglu& s, Stream stream) {
  const Arguments arguments("swiglu");
  arguments.require(s.width > 0, "no columns");
  require_counts(arguments, s.counts);
  if (s.rows == 0) return;
  ptx::launch<swiglu_kernel<GpuSwiglu>>(
      grid_of(arguments, ceil_div(s.rows, kExpertRowsPerBlock), kRowThreads), stream, s);
}

void swiglu_backward(const GpuSwigluBackward& s, Stream stream) {
  const Arguments arguments("swiglu_backward");
  arguments.require(s.width > 0, "no columns");
  arguments.require((s.row_weights == nullptr) == (s.d_row_weights == nullptr),
                    "row_weights and d_row_weights: one without the other");
  require_counts(arguments, s.counts);
  if (s.rows == 0) return;
  ptx::launch<swiglu_input_kernel<GpuSwigluBackward>>(
      grid_of(arguments, ceil_div(s.rows, kExpertRowsPerBlock), kRowThreads, kRowShared),
      stream,
      s);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
