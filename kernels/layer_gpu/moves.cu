#include "kernels/layer_gpu/launch.h"
#include "kernels/layer_gpu/moves.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

void move(const GpuMove& m, Stream stream) {
  const Arguments arguments("move");
  if (m.rows == 0 || m.parts == 0 || m.width == 0) return;
  ptx::launch<move_kernel<GpuMove>>(grid_of(arguments, m.rows * m.parts, kRowThreads), stream, m);
}

void of_rows(const GpuOfRows& r, Stream stream) {
  const Arguments arguments("of_rows");
  if (r.capacity == 0) return;
  ptx::launch<of_rows_kernel<GpuOfRows>>(
      grid_of(arguments, ceil_div(r.capacity, kRowThreads), kRowThreads), stream, r);
}

void of_choices(const GpuOfChoices& c, Stream stream) {
  const Arguments arguments("of_choices");
  arguments.require(c.tokens * c.active < int64_t{1} << 31, "2^31 choices or more");
  if (c.tokens * c.active == 0) return;
  ptx::launch<of_choices_kernel<GpuOfChoices>>(
      grid_of(arguments, ceil_div(c.tokens * c.active, kRowThreads), kRowThreads), stream, c);
}

void look_up(const GpuLookUp& l, Stream stream) {
  const Arguments arguments("look_up");
  if (l.count == 0) return;
  ptx::launch<look_up_kernel<GpuLookUp>>(
      grid_of(arguments, ceil_div(l.count, kRowThreads), kRowThreads), stream, l);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
