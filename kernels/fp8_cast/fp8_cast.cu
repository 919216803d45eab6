#include <string>

#include "base/integers.h"
#include "kernels/fp8_cast/fp8_cast.cuh"
#include "kernels/fp8_cast/fp8_cast.h"
#include "kernels/ptx/arguments.h"

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

const Arguments kArguments("fp8_cast");

LaunchShape grid(int64_t blocks, int shared_bytes) {
  kArguments.require(blocks < int64_t{1} << 31, "more than 2^31 blocks of work");
  LaunchShape shape;
  shape.blocks = static_cast<int>(blocks);
  shape.threads = kCastThreads;
  shape.shared_bytes = shared_bytes;
  return shape;
}

}  // namespace

void cast_rows(const CastRows& c, Stream stream) {
  kArguments.require_multiple(c.m, 1, "m");
  kArguments.require_multiple(c.k, 16, "k");
  kArguments.require(c.scale_stride >= c.m, "the stride of scales is less than m");
  kArguments.require_multiple(c.groups, 1, "groups");
  kArguments.require(c.rows || c.groups == 1, "several groups need their rows");
  if (c.rows) kArguments.require_multiple(c.m, kScaleBlock, "m, the room of padded groups,");
  kArguments.require_aligned(c.x, "x");
  kArguments.require_aligned(c.codes, "codes");
  kArguments.require_aligned(c.scales, "scales");
  const int64_t warps = ceil_div(c.m, 8) * ceil_div(c.k, kScaleBlock);
  kArguments.require(warps < int64_t{1} << 31, "more than 2^31 groups of 8 rows and 128 columns");
  ptx::launch<cast_rows_kernel<CastRows>>(grid(ceil_div(warps, kCastThreads / 32), 0), stream, c);
}

void cast_columns(const CastColumns& c, Stream stream) {
  kArguments.require_multiple(c.tokens, 16, "tokens");
  kArguments.require_multiple(c.k, 16, "k");
  kArguments.require(c.scale_stride >= c.k, "the stride of scales is less than k");
  kArguments.require_multiple(c.groups, 1, "groups");
  kArguments.require(c.rows || c.groups == 1, "several groups need their rows");
  if (c.rows)
    kArguments.require_multiple(c.tokens, kScaleBlock, "tokens, the room of padded groups,");
  kArguments.require_aligned(c.codes, "codes");
  kArguments.require_aligned(c.scales, "scales");
  kArguments.require(!c.x || !c.x_codes, "either x or x_codes, not both");
  if (c.x) {
    kArguments.require_aligned(c.x, "x");
  } else {
    kArguments.require_aligned(c.x_codes, "x and x_codes");
    kArguments.require_aligned(c.x_scales, "x_scales");
    kArguments.require(c.x_scale_stride >= c.tokens,
                       "the stride of x's scales is less than tokens");
  }
  const int64_t blocks = ceil_div(c.tokens, kScaleBlock) * ceil_div(c.k, kCastColumns);
  ptx::launch<cast_columns_kernel<CastColumns>>(grid(blocks, kCastColumnsShared), stream, c);
}

void cast_blocks(const CastBlocks& c, Stream stream) {
  kArguments.require_multiple(c.matrices, 1, "matrices");
  kArguments.require_multiple(c.n, 16, "n");
  kArguments.require_multiple(c.k, 16, "k");
  kArguments.require_aligned(c.w, "w");
  kArguments.require_aligned(c.codes, "codes");
  kArguments.require(c.scales && reinterpret_cast<uintptr_t>(c.scales) % 4 == 0,
                     "scales is null or not aligned to 4 bytes");
  if (c.transposed_codes) {
    kArguments.require_aligned(c.transposed_codes, "transposed_codes");
    kArguments.require(c.transposed_scales != nullptr, "transposed_scales is null");
  }
  const int64_t per_matrix = ceil_div(c.n, kScaleBlock) * ceil_div(c.k, kScaleBlock);
  kArguments.require(per_matrix < int64_t{1} << 31, "a matrix of more than 2^31 blocks");
  const int64_t blocks = c.matrices * per_matrix;
  ptx::launch<cast_blocks_kernel<CastBlocks>>(grid(blocks, kCastBlocksShared), stream, c);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
