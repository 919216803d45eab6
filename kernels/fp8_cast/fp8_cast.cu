#include <stdexcept>
#include <string>

#include "kernels/fp8_cast/fp8_cast.cuh"
#include "kernels/fp8_cast/fp8_cast.h"

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument("fp8_cast: " + what);
}

void require_multiple(int64_t value, int64_t of, const char* name) {
  require(value > 0 && value % of == 0,
          std::string(name) + " is " + std::to_string(value) + ", not a positive multiple of " +
              std::to_string(of));
}

void require_aligned(const void* p, const char* name) {
  require(p && reinterpret_cast<uintptr_t>(p) % 16 == 0,
          std::string(name) + " is null or not aligned to 16 bytes");
}

LaunchShape grid(int64_t blocks, int shared_bytes) {
  require(blocks < int64_t{1} << 31, "more than 2^31 blocks of work");
  LaunchShape shape;
  shape.blocks = static_cast<int>(blocks);
  shape.threads = kCastThreads;
  shape.shared_bytes = shared_bytes;
  return shape;
}

}  // namespace

void cast_rows(const CastRows& c, Stream stream) {
  require_multiple(c.m, 1, "m");
  require_multiple(c.k, 16, "k");
  require(c.scale_stride >= c.m, "the stride of scales is less than m");
  require(c.rows || c.groups == 1, "several groups need their rows");
  require_aligned(c.x, "x");
  require_aligned(c.codes, "codes");
  require_aligned(c.scales, "scales");
  const int64_t warps = ceil_div(c.m, 8) * ceil_div(c.k, kScaleBlock);
  require(warps < int64_t{1} << 31, "more than 2^31 groups of 8 rows and 128 columns");
  ptx::launch<cast_rows_kernel<CastRows>>(grid(ceil_div(warps, kCastThreads / 32), 0), stream, c);
}

void cast_columns(const CastColumns& c, Stream stream) {
  require_multiple(c.tokens, 16, "tokens");
  require_multiple(c.k, 16, "k");
  require(c.scale_stride >= c.k, "the stride of scales is less than k");
  require(c.rows || c.groups == 1, "several groups need their rows");
  require(!c.rows || c.tokens % kScaleBlock == 0, "tokens of groups are not a multiple of 128");
  require_aligned(c.codes, "codes");
  require_aligned(c.scales, "scales");
  if (c.x) {
    require_aligned(c.x, "x");
  } else {
    require_aligned(c.x_codes, "x and x_codes");
    require_aligned(c.x_scales, "x_scales");
    require(c.x_scale_stride >= c.tokens, "the stride of x's scales is less than tokens");
  }
  const int64_t blocks = ceil_div(c.tokens, kScaleBlock) * ceil_div(c.k, kCastColumns);
  ptx::launch<cast_columns_kernel<CastColumns>>(grid(blocks, kCastColumnsShared), stream, c);
}

void cast_blocks(const CastBlocks& c, Stream stream) {
  require_multiple(c.matrices, 1, "matrices");
  require_multiple(c.n, 16, "n");
  require_multiple(c.k, 16, "k");
  require_aligned(c.w, "w");
  require_aligned(c.codes, "codes");
  require(c.scales != nullptr, "scales is null");
  if (c.transposed_codes) {
    require_aligned(c.transposed_codes, "transposed_codes");
    require(c.transposed_scales != nullptr, "transposed_scales is null");
  }
  const int64_t blocks = c.matrices * ceil_div(c.n, kScaleBlock) * ceil_div(c.k, kScaleBlock);
  ptx::launch<cast_blocks_kernel<CastBlocks>>(grid(blocks, kCastBlocksShared), stream, c);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
