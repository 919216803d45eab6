// Every tile of every group is visited once, by whatever blocks, in any number of bands; sizes far
// beyond what the imitation could multiply.

#include "kernels/fp8_gemm/tiles.cuh"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "base/integers.h"
#include "kernels/ptx/imitation/global_memory.h"

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

struct Seen {
  std::vector<Tile> tiles;
};
Seen seen;

template <int kTileN, int kCluster, bool kDepth>
void walk(TileArguments a) {
  if (ptx::thread_index() != 0) return;
  Tiles<kTileN, kCluster, kDepth> tiles(a);
  for (Tile tile; tiles.next(tile);) seen.tiles.push_back(tile);
}

template <int kTileN, int kCluster, bool kDepth>
void expect_all_once(int64_t m, int64_t n, int64_t k, const std::vector<int32_t>& rows, int sms) {
  auto& memory = imitation::GlobalMemory::instance();
  auto* device_rows = static_cast<int32_t*>(memory.allocate(4 * std::max<size_t>(1, rows.size())));
  memory.upload(device_rows, rows.data(), 4 * rows.size());
  TileArguments a{};
  a.rows = rows.empty() ? nullptr : device_rows;
  a.groups = rows.empty() ? 1 : static_cast<int>(rows.size());
  a.m = static_cast<int>(m), a.n = static_cast<int>(n);
  a.k_blocks = static_cast<int>(ceil_div(k, kTileK));
  a.band = make_divisor(Tiles<kTileN, kCluster, kDepth>::band_tiles(n));
  seen.tiles.clear();
  LaunchShape shape;
  shape.cluster = kCluster;
  shape.blocks = sms / kCluster * kCluster;
  ptx::launch<walk<kTileN, kCluster, kDepth>>(shape, {}, a);
  memory.release(device_rows);

  std::map<std::tuple<int, int, int>, int> times;  // group, row, column
  for (const Tile& t : seen.tiles) {
    if (!t.idle) ++times[{t.group, t.row, t.column}];
  }
  size_t expected = 0;
  int64_t begin = 0;  // blocks of 128 before the group
  for (int g = 0; g < a.groups; ++g) {
    const int64_t group_rows = rows.empty() ? (kDepth ? k : m) : rows[static_cast<size_t>(g)];
    const int64_t blocks = ceil_div(group_rows, kTileM);
    const int64_t down = kDepth ? ceil_div(m, kTileM) : blocks;
    for (int64_t i = 0; i < down && group_rows > 0; ++i) {
      for (int64_t column = 0; column < n; column += kTileN) {
        const int64_t row = ((kDepth ? 0 : begin) + i) * kTileM;
        const std::tuple<int, int, int> key{g, static_cast<int>(row), static_cast<int>(column)};
        ASSERT_EQ(times[key], 1) << "group " << g << " row " << row << " column " << column;
        ++expected;
      }
    }
    for (const Tile& t : seen.tiles) {
      if (t.group != g) continue;
      ASSERT_EQ(t.k_begin, kDepth ? begin : 0);
      ASSERT_EQ(t.k_blocks, kDepth ? blocks : a.k_blocks);
    }
    begin += blocks;
  }
  EXPECT_EQ(times.size(), expected);
  // A cluster's blocks have a row each of the same place.
  EXPECT_EQ(seen.tiles.size() % kCluster, 0u);
}

TEST(Tiles, EveryOneIsVisitedOnce) {
  // Bands that are full, cut, and one row high.
  for (const int64_t m : {1, 128, 2048, 2049, 4096 + 128 * 3, 32768 + 1}) {
    expect_all_once<256, 2, false>(m, 7168, 2048, {}, 132);
    expect_all_once<192, 2, false>(m, 2112, 7168, {}, 112);
    expect_all_once<128, 1, false>(m, 1000, 512, {}, 7);
    expect_all_once<64, 1, false>(m, 64, 512, {}, 1);
    expect_all_once<256, 2, true>(m, 1536, 4096, {}, 132);
    expect_all_once<128, 1, true>(m, 100, 16, {}, 3);
  }
  const std::vector<int32_t> groups = {9311, 0, 6920, 1, 128, 256, 8005, 0, 3};
  expect_all_once<256, 2, false>(24832, 4096, 7168, groups, 132);
  expect_all_once<112, 1, false>(24832, 2112, 7168, groups, 66);
  expect_all_once<256, 2, true>(4096, 7168, 24832, groups, 132);
  expect_all_once<128, 1, true>(576, 512, 24832, groups, 5);
  // A vocabulary's width: the estimate of a quotient needs its correction.
  expect_all_once<64, 1, false>(100000, 129280, 128, {}, 132);
}

TEST(Tiles, DivisionIsExact) {
  std::mt19937 random(1);
  for (int i = 0; i < 1000000; ++i) {
    const int64_t divisor = 2 + static_cast<int64_t>(random() >> (random() % 31 + 1));
    const int n = static_cast<int>(random() >> (random() % 31 + 1));
    ASSERT_EQ(divide(n, make_divisor(divisor)), n / divisor) << n << " / " << divisor;
  }
}

}  // namespace
}  // namespace rehearse::kernels::REHEARSE_TARGET
