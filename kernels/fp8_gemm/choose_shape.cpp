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
// Estimates, until kernels_bench has measured them: before a tile's first product the ring of
// stages fills, a latency of device memory and its barriers; results leave in columns of 128 rows x
// 2 bytes, at 64 bytes per clock.
constexpr double kTileOverhead = 1000;
constexpr double kClocksPerColumn = 4;

}  // namespace

double shared_clocks(const TileShape& s, bool weight_gradient) {
  const int64_t tile_n = int64_t{s.width} * s.halves;
  // Every product of a warp group reads its 64 rows of one operand and its columns of the other
  // again; the copies write both once.
  constexpr int64_t kWarpGroups = 2;
  const int64_t products = kWarpGroups * s.halves * (kTileM / kWarpGroups + s.width) * kTileK;
  const int64_t copies =
      (kTileM + tile_n) * kTileK + kTileM * 4 + (weight_gradient ? tile_n * 4 : 0);
  // Scales are read by 8 warps, 8 bytes of every row, or every 8 columns, at a time: an access
  // takes a clock however few bytes it reads.
  const int64_t accesses = 8 * (2 + (weight_gradient ? tile_n / 8 : 0));
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
  // With a lead one warp group's results leave while the other multiplies, alone and so at three
  // quarters of the rate: about half of that time is won.
  const double overhead = kTileOverhead + kClocksPerColumn * static_cast<double>(tile_n);
  return static_cast<double>(waves) *
         (static_cast<double>(ceil_div(depth, kTileK)) *
              std::max({products, copied, shared_clocks(s, size.weight_gradient)}) +
          (s.lead > 0 ? overhead / 2 : overhead));
}

std::string to_string(const TileShape& s) {
  return "128x" + std::to_string(s.width * s.halves) +
         (s.cluster > 1 ? ", clusters of " + std::to_string(s.cluster) : "") +
         (s.lead > 0 ? ", lead " + std::to_string(s.lead) : "");
}

std::vector<TileShape> compiled_shapes(bool weight_gradient) {
  // The largest tile also without a lead, to measure what that gains.
  std::vector<TileShape> list = {{128, 2, 2, 2},
                                 {128, 2, 2, 0},
                                 {128, 2, 1, 2},
                                 {128, 1, 2, 2},
                                 {128, 1, 1, 2},
                                 {192, 1, 2, 2},
                                 {192, 1, 1, 2}};
  if (!weight_gradient) {
    list.insert(list.end(),
                {{160, 1, 2, 2},
                 {160, 1, 1, 2},
                 {112, 1, 2, 2},
                 {112, 1, 1, 2},
                 {64, 1, 2, 2},
                 {64, 1, 1, 2}});
  }
  return list;
}

TileShape choose_shape(const ProductSize& size) {
  TileShape chosen = {128, 1, 1, 2};  // one block by itself fits any number of SMs
  double least = estimate_clocks(size, chosen);
  for (const TileShape& s : compiled_shapes(size.weight_gradient)) {
    const double clocks = estimate_clocks(size, s);
    if (s.cluster <= size.sms && clocks < least) {
      chosen = s;
      least = clocks;
    }
  }
  return chosen;
}

}  // namespace rehearse::kernels
