#include "kernels/fp8_gemm/choose_shape.h"

#include <algorithm>

namespace rehearse::kernels {
namespace {

constexpr double kL2BytesPerClock = 5120.0 / 132;
constexpr double kMultiplyAddsPerClock = 4096;
constexpr int64_t kTileM = 128;
constexpr int64_t kTileK = 128;
constexpr double kTileOverhead = 1000;  // clocks: the pipeline fills, the first results leave
constexpr double kClocksPerColumn = 4;  // of the epilogue

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

double clocks(const TileShape& s,
              int64_t m,
              int64_t n,
              int64_t k,
              int groups,
              int sms,
              bool weight_gradient) {
  const int64_t tile_n = int64_t{s.width} * s.halves;
  const int64_t copies = weight_gradient ? groups : 1;
  const int64_t depth = weight_gradient ? ceil_div(k, groups) : k;
  const int64_t tiles = ceil_div(ceil_div(m, kTileM), s.cluster) * ceil_div(n, tile_n) * copies;
  const int64_t waves = ceil_div(tiles, std::max(1, sms / s.cluster));
  const double products = static_cast<double>(kTileM * tile_n * kTileK) / kMultiplyAddsPerClock;
  const double copied =
      static_cast<double>(kTileM * kTileK + tile_n * kTileK / s.cluster) / kL2BytesPerClock;
  return static_cast<double>(waves) *
         (static_cast<double>(ceil_div(depth, kTileK)) * std::max(products, copied) +
          kTileOverhead + kClocksPerColumn * static_cast<double>(tile_n));
}

}  // namespace

std::string to_string(const TileShape& s) {
  return "128x" + std::to_string(s.width * s.halves) +
         (s.cluster > 1 ? ", clusters of " + std::to_string(s.cluster) : "");
}

std::vector<TileShape> compiled_shapes(bool weight_gradient) {
  std::vector<TileShape> list = {{128, 2, 2}, {128, 2, 1}, {128, 1, 2}, {128, 1, 1}};
  if (!weight_gradient) {
    list.insert(list.end(),
                {{96, 2, 2}, {96, 2, 1}, {112, 1, 2}, {112, 1, 1}, {64, 1, 2}, {64, 1, 1}});
  }
  return list;
}

TileShape choose_shape(int64_t m, int64_t n, int64_t k, int groups, int sms, bool weight_gradient) {
  TileShape chosen;  // one block by itself fits any number of SMs
  double least = clocks(chosen, m, n, k, groups, sms, weight_gradient);
  for (const TileShape& s : compiled_shapes(weight_gradient)) {
    const double c = clocks(s, m, n, k, groups, sms, weight_gradient);
    if (s.cluster <= sms && c < least) {
      chosen = s;
      least = c;
    }
  }
  return chosen;
}

}  // namespace rehearse::kernels
