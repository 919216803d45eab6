#include "kernels/fp8_gemm/choose_shape.h"

#include <algorithm>

#include "base/integers.h"

namespace rehearse::kernels {
namespace {

// Reads of L2 per clock and SM: 5,120 bytes per clock (NVIDIA's A100 whitepaper, "L2 cache"), taken
// to hold for the H100's 132 SMs as well.
constexpr double kL2BytesPerClock = 5120.0 / 132;
// Dense FP8 of an SM: 1979 TFLOP/s over 132 SMs at 1.83 GHz, two per multiply-add (NVIDIA H100
// datasheet).
constexpr double kMultiplyAddsPerClock = 4096;
// Shared memory of an SM, read and written together: 32 banks of 4 bytes.
constexpr double kSharedBytesPerClock = 128;
constexpr int64_t kTileM = 128;
constexpr int64_t kTileK = 128;  // values per scale (report, section 3.3.2)

// Measured by kernels_bench on an H200, from two cases (m32768 n7168 k16384 and m32768 n32768 k512;
// of gradients 4 x 8192 m4096 n7168 and m16384 n7168 with 4096 tokens); all others are predicted by
// them (experiments/fp8-kernels).
// What 128 of the contraction take beyond the limit that binds: nothing where a warp group makes
// 64 or 128 columns at a time.
constexpr double kWideExcess = 1.08;      // 160 or 192 columns at once
constexpr double kGradientExcess = 1.20;  // two scales per element, read by threads
// A tile's beginning and the way out of its results, of which little is hidden.
constexpr double kTileOverhead = 300;
constexpr double kClocksPerColumn = 9;
constexpr double kClocksPerGradientColumn = 36;  // 4 bytes an element, read and added to

}  // namespace

double shared_clocks(const TileShape& s, bool weight_gradient) {
  const int64_t tile_n = int64_t{s.width} * s.halves;
  // Every product of a warp group reads its 64 rows of one operand and its columns of the other
  // again; the copies write both once.
  constexpr int64_t kWarpGroups = 2;
  const int64_t products = kWarpGroups * s.halves * (kTileM / kWarpGroups + s.width) * kTileK;
  const int64_t copies =
      (kTileM + tile_n) * kTileK + kTileM * 4 + (weight_gradient ? tile_n * 4 : 0);
  // 8 warps read a gradient's column scales, those of 8 columns at a time, a clock each.
  const int64_t accesses = weight_gradient ? 8 * tile_n / 8 : 0;
  return static_cast<double>(products + copies) / kSharedBytesPerClock +
         static_cast<double>(accesses);
}

double estimate_clocks(const ProductSize& size, const TileShape& s) {
  const int64_t tile_n = int64_t{s.width} * s.halves;
  const int64_t copies = size.weight_gradient ? size.groups : 1;
  const int64_t depth = size.weight_gradient ? ceil_div(size.k, size.groups) : size.k;
  const int64_t tiles =
      ceil_div(ceil_div(size.m, kTileM), s.cluster) * ceil_div(size.n, tile_n) * copies;
  const int64_t waves = ceil_div(tiles, std::max(1, size.sms / s.cluster));
  const double products = static_cast<double>(kTileM * tile_n * kTileK) / kMultiplyAddsPerClock;
  const double copied =
      static_cast<double>(kTileM * kTileK + tile_n * kTileK / s.cluster) / kL2BytesPerClock;
  const double block = std::max({products, copied, shared_clocks(s, size.weight_gradient)}) *
                       (size.weight_gradient ? kGradientExcess
                        : s.width > 128      ? kWideExcess
                                             : 1.0);
  const double column = size.weight_gradient ? kClocksPerGradientColumn : kClocksPerColumn;
  return static_cast<double>(waves) * (static_cast<double>(ceil_div(depth, kTileK)) * block +
                                       kTileOverhead + column * static_cast<double>(tile_n));
}

std::string to_string(const TileShape& s) {
  return "128x" + std::to_string(s.width * s.halves) +
         (s.cluster > 1 ? ", clusters of " + std::to_string(s.cluster) : "") +
         (s.lead > 0 ? ", lead " + std::to_string(s.lead) : "");
}

std::vector<TileShape> compiled_shapes(bool weight_gradient) {
  if (weight_gradient) return {{128, 2, 2, 0}, {128, 2, 1, 0}, {128, 1, 2, 0}, {128, 1, 1, 0}};
  // The largest tile also without a lead, to measure what that gains.
  return {{128, 2, 2, 2},
          {128, 2, 2, 0},
          {128, 2, 1, 2},
          {128, 1, 2, 2},
          {128, 1, 1, 2},
          {192, 1, 2, 2},
          {192, 1, 1, 2},
          {160, 1, 2, 2},
          {160, 1, 1, 2},
          {64, 1, 2, 2},
          {64, 1, 1, 2}};
}

TileShape choose_shape(const ProductSize& size) {
  // One block by itself fits any number of SMs.
  TileShape chosen = {128, 1, 1, size.weight_gradient ? 0 : 2};
  double least = estimate_clocks(size, chosen);
  for (const TileShape& s : compiled_shapes(size.weight_gradient)) {
    if (s.cluster > 1 && (size.shares_device || s.cluster > size.sms)) continue;
    const double clocks = estimate_clocks(size, s);
    if (clocks < least) {
      chosen = s;
      least = clocks;
    }
  }
  return chosen;
}

}  // namespace rehearse::kernels
