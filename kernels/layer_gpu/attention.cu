#include "kernels/layer_gpu/attention.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

// Of so many values in shared memory.
int shared_for(const Arguments& arguments, int64_t values) {
  const int64_t bytes = kAttentionValues + values * 4;
  arguments.require(bytes <= kMaxSharedBytes,
                    "sequences are too long: " + std::to_string(bytes) + " bytes of shared memory");
  return static_cast<int>(bytes);
}

void require_shape(const Arguments& arguments, const AttentionShape& s, const ConstValues& k_rope) {
  arguments.require(s.length > 0 && s.heads > 0 && s.qk() > 0 && s.v_head > 0,
                    "a size is not positive");
  arguments.require(s.heads % s.keys() == 0, "key heads do not divide the heads");
  const bool shared = k_rope.fp32 != nullptr || k_rope.bf16 != nullptr;
  arguments.require(shared == (s.qk_rope > 0) && (!shared || s.k_rope_stride >= s.qk_rope),
                    "the shared key is missing, or not wanted, or its tokens overlap");
}

}  // namespace

void attention(const GpuAttention& a, Stream stream) {
  const Arguments arguments("attention");
  require_shape(arguments, a.shape, a.k_rope);
  if (a.shape.tokens() == 0) return;
  ptx::launch<attention_kernel<GpuAttention>>(grid_of(arguments,
                                                      a.shape.tokens() * a.shape.heads,
                                                      kRowThreads,
                                                      shared_for(arguments, a.shape.length)),
                                              stream,
                                              a);
}

void attention_backward(const GpuAttentionBackward& a, Stream stream) {
  const Arguments arguments("attention_backward");
  const AttentionShape& s = a.shape;
  require_shape(arguments, s, a.k_rope);
  arguments.require((a.dk_rope != nullptr) == (s.qk_rope > 0), "the shared key's gradient");
  if (s.tokens() == 0) return;
  const auto grid = [&](int64_t blocks, int shared) {
    return grid_of(arguments, blocks, kRowThreads, shared);
  };
  const int of_query = shared_for(arguments, s.length);
  const int of_key = shared_for(arguments, 2 * s.length + s.qk_nope + s.v_head);
  ptx::launch<attention_delta_kernel<GpuAttentionBackward>>(
      grid(s.tokens() * s.heads, kRowShared), stream, a);
  ptx::launch<attention_query_kernel<GpuAttentionBackward>>(
      grid(s.tokens() * s.heads, of_query), stream, a);
  ptx::launch<attention_key_kernel<GpuAttentionBackward>>(
      grid(s.tokens() * s.keys(), of_key), stream, a);
  if (s.qk_rope == 0) return;
  ptx::launch<attention_shared_key_kernel<GpuAttentionBackward>>(grid(s.tokens(), 0), stream, a);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
