#include "kernels/layer_gpu/exchange.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {

void destinations(const GpuDestinations& d, Stream stream) {
  const Arguments arguments("destinations");
  arguments.require(d.per_member > 0 && d.members_per_part > 0, "no experts, or no members");
  arguments.require(d.tokens * d.parts < int64_t{1} << 31 && d.tokens * d.active < int64_t{1} << 31,
                    "2^31 choices or more");
  if (d.tokens * d.parts == 0) return;
  ptx::launch<destinations_kernel<GpuDestinations>>(
      grid_of(arguments, ceil_div(d.tokens * d.parts, kRowThreads), kRowThreads), stream, d);
}

void gather(const GpuGather& g, Stream stream) {
  const Arguments arguments("gather");
  arguments.require(g.peers > 0 && g.peers <= kMostPeers && g.part >= 0 && g.part < g.peers,
                    "a member of more peers than a hop has, or of none");
  arguments.require(g.element_bytes == 1 || g.element_bytes == 2 || g.element_bytes == 4,
                    "elements of " + std::to_string(g.element_bytes) + " bytes");
  arguments.require((g.slots == nullptr) == (g.weights == nullptr), "slots without weights");
  // Without room too: what finds none is counted.
  const int64_t blocks = ceil_div(g.capacity, kExpertRowsPerBlock);
  ptx::launch<gather_kernel<GpuGather>>(
      grid_of(arguments, blocks > 0 ? blocks : 1, kRowThreads), stream, g);
}

void sum_parts(const GpuSumParts& s, Stream stream) {
  const Arguments arguments("sum_parts");
  arguments.require(s.peers > 0 && s.peers <= kMostPeers && s.me >= 0 && s.me < s.peers,
                    "a member of more peers than a hop has, or of none");
  arguments.require(s.exact >= 0 && s.exact <= s.width, "more exact columns than there are");
  if (s.tokens == 0 || s.width == 0) return;
  ptx::launch<sum_parts_kernel<GpuSumParts>>(grid_of(arguments, s.tokens, kRowThreads), stream, s);
}

void sum_members(const GpuSumMembers& s, Stream stream) {
  const Arguments arguments("sum_members");
  arguments.require(s.members > 0 && s.members <= kMostMembers,
                    "a sum over none, or over more members than are taken");
  if (s.elements == 0) return;
  ptx::launch<sum_members_kernel<GpuSumMembers>>(
      grid_of(arguments, ceil_div(s.elements, kRowThreads), kRowThreads), stream, s);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
