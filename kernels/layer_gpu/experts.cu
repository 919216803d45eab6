#include "kernels/layer_gpu/experts.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {

void map_rows(const GpuRowMap& m, Stream stream) {
  const Arguments arguments("map_rows");
  arguments.require(m.active > 0 && m.tokens * m.active < int64_t{1} << 31,
                    "no choices of a token, or 2^31 of all");
  arguments.require(m.experts > 0 && m.experts * 4 <= kMaxSharedBytes &&
                        m.experts * (map_chunks(m.tokens) + 1) < int64_t{1} << 31,
                    "too many experts");
  arguments.require(m.capacity % kRowsPadded == 0 && m.capacity < int64_t{1} << 31,
                    "the capacity is no multiple of 128 below 2^31");
  const int64_t chunks = map_chunks(m.tokens);
  if (chunks > 0) {
    ptx::launch<count_rows_kernel<GpuRowMap>>(grid_of(arguments, chunks, kRowThreads), stream, m);
  }
  ptx::launch<place_experts_kernel<GpuRowMap>>(
      grid_of(arguments, 1, kRowThreads, static_cast<int>(m.experts * 4)), stream, m);
  if (chunks > 0) {
    ptx::launch<give_rows_kernel<GpuRowMap>>(grid_of(arguments, chunks, kRowThreads), stream, m);
  }
}

void permute(const GpuPermute& p, Stream stream) {
  const Arguments arguments("permute");
  arguments.require(p.width > 0, "no columns");
  arguments.require((p.x_codes == nullptr) == (p.row_codes == nullptr) &&
                        (p.x_codes == nullptr) == (p.x_scales == nullptr) &&
                        (p.x_codes == nullptr) == (p.row_scales == nullptr),
                    "codes and scales: some without the others");
  if (p.capacity == 0) return;
  ptx::launch<permute_kernel<GpuPermute>>(
      grid_of(arguments, ceil_div(p.capacity, kExpertRowsPerBlock), kRowThreads), stream, p);
}

void unpermute(const GpuUnpermute& u, Stream stream) {
  const Arguments arguments("unpermute");
  arguments.require(u.width > 0, "no columns");
  if (u.tokens == 0) return;
  ptx::launch<unpermute_kernel<GpuUnpermute>>(grid_of(arguments, u.tokens, kRowThreads), stream, u);
}

namespace {

void require_gate(const Arguments& arguments, const GateShape& s) {
  arguments.require(s.experts > 0 && s.experts <= 3500, "not 1 to 3500 experts");
  arguments.require(s.active > 0 && s.active <= 32 && s.active <= s.experts,
                    "not 1 to 32 active experts");
  arguments.require(s.groups > 0 && s.groups <= kMostGroups && s.experts % s.groups == 0,
                    "groups are more than 64 or do not divide the experts");
}

}  // namespace

void gate(const GpuGate& g, Stream stream) {
  const Arguments arguments("gate");
  require_gate(arguments, g.shape);
  arguments.require(g.shape.active <= g.shape.experts / g.shape.groups * g.shape.kept_groups,
                    "more active experts than the kept groups have");
  if (g.shape.tokens == 0) return;
  ptx::launch<gate_kernel<GpuGate>>(grid_of(arguments,
                                            ceil_div(g.shape.tokens, kRowWarps),
                                            kRowThreads,
                                            kRowWarps * gate_shared(g.shape.experts)),
                                    stream,
                                    g);
}

void gate_backward(const GpuGateBackward& g, Stream stream) {
  const Arguments arguments("gate_backward");
  require_gate(arguments, g.shape);
  if (g.shape.tokens == 0) return;
  if (g.loss.coefficient != 0) {
    arguments.require(g.loss.length > 0 && g.shape.tokens % g.loss.length == 0,
                      "sequences do not divide the tokens");
    ptx::launch<gate_frequency_kernel<GpuGateBackward>>(
        grid_of(arguments, g.shape.tokens / g.loss.length, kRowThreads), stream, g);
  }
  ptx::launch<gate_input_kernel<GpuGateBackward>>(
      grid_of(arguments, ceil_div(g.shape.tokens, kRowWarps), kRowThreads), stream, g);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
