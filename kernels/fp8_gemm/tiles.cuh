#pragma once
// Which tiles of the output a block computes, one after the other, and in which order all blocks
// go through them.

#include <cstdint>

#include "kernels/ptx/ptx.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

inline constexpr int kTileM = 128;
inline constexpr int kTileK = 128;

// Division by a number that the host knows: divisor >= 2, reciprocal = ceil(2^32 / divisor).
struct Divisor {
  uint32_t divisor;
  uint32_t reciprocal;
};

inline Divisor make_divisor(int64_t divisor) {
  const auto d = static_cast<uint64_t>(divisor);
  return {static_cast<uint32_t>(d), static_cast<uint32_t>(((uint64_t{1} << 32) + d - 1) / d)};
}

// The estimate is never too small, and less than 1 too large for any n below 2^32.
__device__ __forceinline__ int divide(int n, const Divisor& by) {
  const auto u = static_cast<uint32_t>(n);
  uint32_t q = ptx::multiply_high(u, by.reciprocal);
  if (q * by.divisor > u) --q;
  return static_cast<int>(q);
}

struct TileArguments {
  const int32_t* rows;  // per group, or null
  int groups;
  int m;         // rows without groups, or of every group's output where groups share k
  int n;         // columns
  int k_blocks;  // of the contraction, where groups share m
  Divisor band;  // tiles in a band, Tiles::band_tiles(n)
};

// A block's part of a tile for its cluster: the blocks of a cluster have consecutive rows, the same
// columns and the same contraction.
struct Tile {
  int group;
  int row;      // first of the left operand
  int column;   // first of the output
  int k_begin;  // blocks of 128 along the contraction
  int k_blocks;
  bool idle;  // no such rows: the block only helps to load what its cluster shares
};

// kDepth: groups divide the contraction (weight gradients); else they divide the rows.
template <int kTileN, int kCluster, bool kDepth>
class Tiles {
 public:
  __device__ __forceinline__ explicit Tiles(const TileArguments& a)
      : a_(a), next_(ptx::block_index() / kCluster), rank_(ptx::cluster_rank()) {
    open_group();
  }

  static int64_t band_tiles(int64_t n) { return (n + kTileN - 1) / kTileN * kBand; }

  __device__ __forceinline__ bool next(Tile& tile) {
    while (group_ < a_.groups && next_ - first_ >= count_) {
      first_ += count_;
      begin_ += (rows_ + kTileM - 1) / kTileM;
      ++group_;
      open_group();
    }
    if (group_ >= a_.groups) return false;
    // Bands of kBand tiles down, walked column by column, so that what runs at the same time
    // shares both operands in L2.
    const int in_group = next_ - first_;
    const int band = divide(in_group, a_.band);
    const int in_band = in_group - band * static_cast<int>(a_.band.divisor);
    const int left = down_ - band * kBand;
    const int column = left >= kBand ? in_band / kBand : in_band / left;
    const int row = left >= kBand ? in_band % kBand : in_band - column * left;
    const int m = (band * kBand + row) * kCluster + rank_;
    tile.group = group_;
    tile.column = column * kTileN;
    tile.row = (kDepth ? m : begin_ + m) * kTileM;
    tile.k_begin = kDepth ? begin_ : 0;
    tile.k_blocks = kDepth ? (rows_ + kTileK - 1) / kTileK : a_.k_blocks;
    tile.idle = m * kTileM >= (kDepth ? a_.m : rows_);
    next_ += ptx::block_count() / kCluster;
    return true;
  }

 private:
  static constexpr int kBand = 16 / kCluster;  // a power of two

  __device__ __forceinline__ void open_group() {
    if (group_ >= a_.groups) return;
    rows_ = a_.rows ? ptx::load_global(a_.rows + group_) : kDepth ? a_.k_blocks * kTileK : a_.m;
    const int m_tiles = ((kDepth ? a_.m : rows_) + kTileM - 1) / kTileM;
    down_ = (m_tiles + kCluster - 1) / kCluster;
    count_ = rows_ > 0 ? down_ * ((a_.n + kTileN - 1) / kTileN) : 0;
  }

  const TileArguments& a_;
  int next_;  // of all groups' tiles, per cluster
  int rank_;
  int group_ = 0;
  int rows_ = 0;
  int begin_ = 0;  // blocks of 128 rows before this group
  int first_ = 0;  // its first tile
  int count_ = 0;  // its tiles
  int down_ = 0;   // of them in a column
};

}  // namespace rehearse::kernels::REHEARSE_TARGET
