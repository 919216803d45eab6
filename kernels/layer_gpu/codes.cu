#include "kernels/layer_gpu/codes.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {

void encode(const GpuEncode& e, Stream stream) {
  const Arguments arguments("encode");
  const int64_t tiles = ceil_div(e.columns, int64_t{kScaleBlock});
  const bool squares = e.shared || e.format == CodeFormat::kBlocks;
  arguments.require(e.format != CodeFormat::kE5m6 || !e.shared, "rows of E5M6 share no scale");
  arguments.require(squares || e.rows * tiles < int64_t{1} << 31, "2^31 tiles or more");
  arguments.require(e.format == CodeFormat::kBlocks || e.scale_stride >= e.rows,
                    "scales closer together than rows");
  if (e.rows == 0 || e.columns == 0) return;
  if (squares) {
    ptx::launch<encode_squares_kernel<GpuEncode>>(
        grid_of(arguments, ceil_div(e.rows, kRowsPadded) * tiles, kRowThreads, kRowShared),
        stream,
        e);
    return;
  }
  ptx::launch<encode_rows_kernel<GpuEncode>>(
      grid_of(arguments, ceil_div(e.rows * tiles, int64_t{kRowWarps}), kRowThreads), stream, e);
}

void decode(const GpuDecode& d, Stream stream) {
  const Arguments arguments("decode");
  arguments.require(d.rows < int64_t{1} << 31, "2^31 rows or more");
  if (d.rows == 0 || d.columns == 0) return;
  ptx::launch<decode_kernel<GpuDecode>>(
      grid_of(arguments, ceil_div(d.rows, kExpertRowsPerBlock), kRowThreads), stream, d);
}

void round_columns(const GpuRoundColumns& r, Stream stream) {
  const Arguments arguments("round_columns");
  if (r.rows == 0 || r.columns == 0) return;
  ptx::launch<round_columns_kernel<GpuRoundColumns>>(
      grid_of(arguments,
              ceil_div(r.rows, kRowsPadded) * ceil_div(r.columns, int64_t{kScaleBlock}),
              kRowThreads,
              kRowShared),
      stream,
      r);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
