#include <algorithm>
#include <string>

#include "base/integers.h"
#include "kernels/fp8_gemm/choose_shape.h"
#include "kernels/fp8_gemm/fp8_gemm.cuh"
#include "kernels/fp8_gemm/fp8_gemm.h"
#include "kernels/ptx/arguments.h"

// Which tile shapes are compiled, of those that dispatch() lists; broken variants for the tests
// (tests/mutants.cmake) need one only.
#ifndef REHEARSE_COMPILES_SHAPE
#define REHEARSE_COMPILES_SHAPE(width, halves, cluster, lead, depth) true
#endif

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

const Arguments kArguments("fp8_gemm");

void require_blocks(const TileShape& shape, int sms) {
  kArguments.require(shape.cluster <= sms,
                     "clusters of " + std::to_string(shape.cluster) + " blocks do not fit " +
                         std::to_string(sms) + " SMs");
}

// Codes [outer, rows, columns], read in boxes of box_rows by 128.
TensorMap codes_map(
    const uint8_t* base, int64_t columns, int64_t rows, int64_t outer, int box_rows) {
  TensorShape t;
  t.base = base;
  t.size = {
      static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), static_cast<uint64_t>(outer)};
  t.stride = {static_cast<uint64_t>(columns), static_cast<uint64_t>(columns * rows)};
  t.box = {kTileK, static_cast<uint32_t>(box_rows), 1};
  t.swizzle = 128;
  return ptx::make_tensor_map(t);
}

// 1x128 scales [blocks, stride], of which `rows` are used.
TensorMap scales_map(const float* base, int64_t rows, int64_t stride, int64_t blocks, int box) {
  TensorShape t;
  t.base = base;
  t.element = Element::kFloat;
  t.size = {static_cast<uint64_t>(rows), static_cast<uint64_t>(blocks), 1};
  t.stride = {static_cast<uint64_t>(stride * 4), static_cast<uint64_t>(stride * blocks * 4)};
  t.box = {static_cast<uint32_t>(box), 1, 1};
  return ptx::make_tensor_map(t);
}

template <class S>
TensorMap output_map(const void* base, Element element, int64_t n, int64_t rows, int64_t outer) {
  const uint64_t row_bytes = static_cast<uint64_t>(n) * size_of(element);
  TensorShape t;
  t.base = base;
  t.element = element;
  t.size = {static_cast<uint64_t>(n), static_cast<uint64_t>(rows), static_cast<uint64_t>(outer)};
  t.stride = {row_bytes, row_bytes * static_cast<uint64_t>(rows)};
  t.box = {S::kBoxColumns, 64, 1};
  t.swizzle = S::kBoxRowBytes;
  return ptx::make_tensor_map(t);
}

template <class S>
TileArguments tile_arguments(
    const int32_t* rows, int groups, int64_t m, int64_t n, int64_t k_blocks) {
  return {rows,
          groups,
          static_cast<int>(m),
          static_cast<int>(n),
          static_cast<int>(k_blocks),
          make_divisor(Tiles<S::kTileN, S::kCluster, S::kDepth>::band_tiles(n))};
}

template <class S>
void start(const GemmArguments& args, int sms, Stream stream) {
  LaunchShape shape;
  shape.cluster = S::kCluster;
  shape.blocks = sms / S::kCluster * S::kCluster;
  shape.threads = S::kThreads;
  shape.shared_bytes = S::kSharedBytes;
  shape.waits_itself = true;
  ptx::launch<fp8_gemm_kernel<S>>(shape, stream, args);
}

template <class S>
void run(const Fp8Product& p, Stream stream) {
  const int64_t k_blocks = ceil_div(p.k, kTileK);
  GemmArguments args{};
  args.a = codes_map(p.x, p.k, p.m, 1, kTileM);
  args.a_scales = scales_map(p.x_scales, p.m, p.x_scale_stride, k_blocks, kTileM);
  args.b = codes_map(p.w, p.k, p.n, p.groups, S::kTileN / S::kCluster);
  args.b_block_scales = p.w_scales;
  args.d = output_map<S>(p.y, Element::kBf16, p.n, p.m, 1);
  args.tiles = tile_arguments<S>(p.rows, p.groups, p.m, p.n, k_blocks);
  start<S>(args, p.sms, stream);
}

template <class S>
void run(const Fp8WeightGradient& p, Stream stream) {
  const int64_t k_blocks = ceil_div(p.tokens, kTileK);
  GemmArguments args{};
  args.a = codes_map(p.dy, p.tokens, p.m, 1, kTileM);
  args.a_scales = scales_map(p.dy_scales, p.m, p.dy_scale_stride, k_blocks, kTileM);
  args.b = codes_map(p.x, p.tokens, p.n, 1, S::kTileN / S::kCluster);
  args.b_scales = scales_map(p.x_scales, p.n, p.x_scale_stride, k_blocks, S::kTileN);
  args.d = output_map<S>(p.dw, Element::kFloat, p.n, p.m, p.groups);
  args.tiles = tile_arguments<S>(p.rows, p.groups, p.m, p.n, k_blocks);
  start<S>(args, p.sms, stream);
}

// Runs the compiled shape.
template <bool kDepth, class Problem>
void dispatch(const TileShape& s, const Problem& p, Stream stream) {
  const auto run_if = [&]<int kWidth, int kHalves, int kCluster, int kLead>() {
    if constexpr (REHEARSE_COMPILES_SHAPE(kWidth, kHalves, kCluster, kLead, kDepth)) {
      if (!(s == TileShape{kWidth, kHalves, kCluster, kLead})) return false;
      run<GemmShape<kWidth, kHalves, kCluster, kLead, kDepth>>(p, stream);
      return true;
    }
    return false;
  };
  bool known = run_if.template operator()<128, 2, 2, 0>();
  if constexpr (kDepth) {
    known = known || run_if.template operator()<128, 2, 1, 0>() ||
            run_if.template operator()<128, 1, 2, 0>() ||
            run_if.template operator()<128, 1, 1, 0>();
  } else {
    known =
        known || run_if.template operator()<128, 2, 2, 2>() ||
        run_if.template operator()<128, 2, 1, 2>() || run_if.template operator()<128, 1, 2, 2>() ||
        run_if.template operator()<128, 1, 1, 2>() || run_if.template operator()<192, 1, 2, 2>() ||
        run_if.template operator()<192, 1, 1, 2>() || run_if.template operator()<160, 1, 2, 2>() ||
        run_if.template operator()<160, 1, 1, 2>() || run_if.template operator()<64, 1, 2, 2>() ||
        run_if.template operator()<64, 1, 1, 2>();
  }
  kArguments.require(known, "no kernel is compiled for tiles of " + to_string(s));
}

}  // namespace

void fp8_gemm(const Fp8Product& p, const TileShape& shape, Stream stream) {
  kArguments.require_multiple(p.k, 16, "k");
  kArguments.require_multiple(p.n, 8, "n");
  kArguments.require_multiple(p.m, 1, "m");
  kArguments.require_multiple(p.x_scale_stride, 4, "the stride of x's scales");
  kArguments.require_multiple(p.groups, 1, "groups");
  kArguments.require_multiple(p.sms, 1, "sms");
  kArguments.require(p.x_scale_stride >= p.m, "the stride of x's scales is less than m");
  kArguments.require(p.rows || p.groups == 1, "several groups need their rows");
  if (p.rows) kArguments.require_multiple(p.m, kScaleBlock, "m, the room of padded groups,");
  require_blocks(shape, p.sms);
  kArguments.require_aligned(p.x, "x");
  kArguments.require_aligned(p.x_scales, "x_scales");
  kArguments.require_aligned(p.w, "w");
  kArguments.require(p.w_scales && reinterpret_cast<uintptr_t>(p.w_scales) % 4 == 0,
                     "w_scales is null or not aligned to 4 bytes");
  kArguments.require_aligned(p.y, "y");
  dispatch<false>(shape, p, stream);
}

void fp8_weight_gradient(const Fp8WeightGradient& p, const TileShape& shape, Stream stream) {
  kArguments.require_multiple(p.tokens, 16, "tokens");
  kArguments.require_multiple(p.n, 4, "n");
  kArguments.require_multiple(p.m, 1, "m");
  kArguments.require_multiple(p.dy_scale_stride, 4, "the stride of dy's scales");
  kArguments.require_multiple(p.x_scale_stride, 4, "the stride of x's scales");
  kArguments.require_multiple(p.groups, 1, "groups");
  kArguments.require_multiple(p.sms, 1, "sms");
  kArguments.require(p.dy_scale_stride >= p.m, "the stride of dy's scales is less than m");
  kArguments.require(p.x_scale_stride >= p.n, "the stride of x's scales is less than n");
  kArguments.require(p.rows || p.groups == 1, "several groups need their rows");
  if (p.rows)
    kArguments.require_multiple(p.tokens, kScaleBlock, "tokens, the room of padded groups,");
  require_blocks(shape, p.sms);
  kArguments.require_aligned(p.dy, "dy");
  kArguments.require_aligned(p.dy_scales, "dy_scales");
  kArguments.require_aligned(p.x, "x");
  kArguments.require_aligned(p.x_scales, "x_scales");
  kArguments.require_aligned(p.dw, "dw");
  dispatch<true>(shape, p, stream);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
