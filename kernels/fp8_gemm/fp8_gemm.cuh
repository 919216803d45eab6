#pragma once
// The kernel behind fp8_gemm and fp8_weight_gradient.
//
// A persistent grid of clusters of one or two blocks. In a block, one thread of the third warp
// group feeds a ring of stages with tensor copies; the first two warp groups multiply, each 64 rows
// of the block's 128 by kHalves times kWidth columns, 128 of the contraction at a time into a fresh
// sum, and add that, scaled, to their FP32 sums while the other warp group multiplies. Blocks of a
// cluster share the right operand: each copies its part to both. Stage s is filled when its barrier
// `full` completes and free when `empty` does, which counts the math warps of all blocks that read
// what the producer overwrites next. Results leave through shared memory, box by box, while the
// next tile begins; the first warp group starts kLead stages ahead, so that the second multiplies
// while the first's results leave, and the other way round.

#include <type_traits>

#include "kernels/fp8_gemm/tiles.cuh"
#include "kernels/ptx/ptx.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

inline constexpr int kLeadBarrier = 3;  // 1 and 2 are the warp groups' own

struct GemmArguments {
  TensorMap a, a_scales, b, b_scales, d;
  const float* b_block_scales;  // 128x128, or null
  TileArguments tiles;
};

// kWidth columns at a time, kHalves times. kDepth: weight gradient (1x128 by 1x128, added to FP32);
// else 1x128 by 128x128, to BF16.
template <int kWidth_, int kHalves_, int kCluster_, int kLead_, bool kDepth_>
struct GemmShape {
  static constexpr int kWidth = kWidth_;
  static constexpr int kHalves = kHalves_;
  static constexpr int kCluster = kCluster_;
  static constexpr int kLead = kLead_;
  static constexpr bool kDepth = kDepth_;

  static constexpr int kTileN = kWidth * kHalves;
  static constexpr int kMathWarps = 8;
  static constexpr int kThreads = (kMathWarps + 4) * 32;

  // Boxes in which results leave, 64 rows of a warp group each.
  static constexpr int kBoxColumns = kDepth             ? 16
                                     : kWidth % 64 == 0 ? 64
                                     : kWidth % 32 == 0 ? 32
                                                        : 16;
  static constexpr int kBoxRowBytes = kBoxColumns * (kDepth ? 4 : 2);
  static constexpr int kBoxBytes = 64 * kBoxRowBytes;
  static constexpr int kSlots = kDepth ? 3 : 2;  // boxes on their way, per warp group

  static constexpr int kBytesA = kTileM * kTileK;
  static constexpr int kBytesB = kTileN * kTileK;
  static constexpr int kBytesScalesA = kTileM * 4;
  static constexpr int kBytesScalesB = kDepth ? kTileN * 4 : 0;
  static constexpr int kStageBytes = kBytesA + kBytesB + kBytesScalesA + kBytesScalesB;
  static constexpr int kOutBytes = 2 * kSlots * kBoxBytes;
  static constexpr int kStagesThatFit = (kMaxSharedBytes - kOutBytes - 1024) / kStageBytes;
  static constexpr int kStages = kStagesThatFit < 8 ? kStagesThatFit : 8;

  // Where things lie in shared memory; tiles and boxes first, on multiples of 1024.
  static constexpr int kA = 0;
  static constexpr int kB = kA + kStages * kBytesA;
  static constexpr int kOut = kB + kStages * kBytesB;
  static constexpr int kScalesA = kOut + kOutBytes;
  static constexpr int kScalesB = kScalesA + kStages * kBytesScalesA;
  static constexpr int kBarriers = kScalesB + kStages * kBytesScalesB;
  static constexpr int kSharedBytes = kBarriers + 2 * kStages * 8;

  static_assert(kTileN <= 256 && kWidth % 16 == 0);
  // A product and all sums lie in registers, of which 192 are left for them.
  static_assert(kWidth / 2 + kTileN / 2 <= 192);
  static_assert(kHalves == 1 || kDepth || 128 % kWidth == 0);  // one edge in all
  static_assert(kBytesB / kCluster % 1024 == 0 && kBoxBytes % 1024 == 0 && kWidth % 8 == 0);
  static_assert(kStages >= kLead + 1 && kStages >= 3 && kSharedBytes <= kMaxSharedBytes);
};

// The ring of stages, as one side goes round it.
template <class S>
struct Ring {
  uint32_t base;
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ uint32_t a() const { return base + S::kA + stage * S::kBytesA; }
  __device__ __forceinline__ uint32_t b() const { return base + S::kB + stage * S::kBytesB; }
  __device__ __forceinline__ uint32_t scales_a() const {
    return base + S::kScalesA + stage * S::kBytesScalesA;
  }
  __device__ __forceinline__ uint32_t scales_b() const {
    return base + S::kScalesB + stage * S::kBytesScalesB;
  }
  __device__ __forceinline__ uint32_t full() const { return base + S::kBarriers + stage * 8; }
  __device__ __forceinline__ uint32_t empty() const {
    return base + S::kBarriers + (S::kStages + stage) * 8;
  }
};

// One thread: every stage of every tile.
template <class S>
__device__ __forceinline__ void produce(const GemmArguments& args, uint32_t base) {
  const int rank = ptx::cluster_rank();
  constexpr int kShare = S::kTileN / S::kCluster;  // rows of B that this block copies
  Ring<S> ring{base};
  Tiles<S::kTileN, S::kCluster, S::kDepth> tiles(args.tiles);
  for (Tile tile; tiles.next(tile);) {
    for (int i = 0; i < tile.k_blocks; ++i, ring.advance()) {
      const int k = tile.k_begin + i;
      const int weights = S::kDepth ? 0 : tile.group;
      ptx::wait_barrier(ring.empty(), ring.parity ^ 1, "empty");
      ptx::arrive_expecting(ring.full(), S::kStageBytes);
      ptx::load_tensor(ring.a(), args.a, ring.full(), k * kTileK, tile.row, 0);
      ptx::load_tensor(ring.scales_a(), args.a_scales, ring.full(), tile.row, k, 0);
      if constexpr (S::kCluster > 1) {
        ptx::load_tensor_multicast(ring.b() + rank * kShare * kTileK,
                                   args.b,
                                   ring.full(),
                                   k * kTileK,
                                   tile.column + rank * kShare,
                                   weights,
                                   (1 << S::kCluster) - 1);
      } else {
        ptx::load_tensor(ring.b(), args.b, ring.full(), k * kTileK, tile.column, weights);
      }
      if constexpr (S::kDepth) {
        ptx::load_tensor(ring.scales_b(), args.b_scales, ring.full(), tile.column, k, 0);
      }
    }
  }
}

// This warp has read the stage: says so to every block that copies into it.
template <class S>
__device__ __forceinline__ void release(const Ring<S>& ring, int lane) {
  ptx::sync_warp();  // lane 0 speaks for all
  if constexpr (S::kCluster > 1) {
    if (lane < S::kCluster) ptx::arrive_at_rank(ring.empty(), lane);
  } else {
    if (lane == 0) ptx::arrive(ring.empty());
  }
}

// The 128x128 scales of a tile's weights, of each half's first columns and of the rest, which lie
// in the next block where kWidth does not divide 128; in 128 of the contraction after the other.
template <class S>
struct WeightScales {
  float first[S::kHalves] = {}, second[S::kHalves] = {};
  int split = 128;  // where the rest begins

  __device__ __forceinline__ WeightScales(const GemmArguments& args, const Tile& tile) {
    const int blocks = (args.tiles.n + 127) / 128;
    const float* scales =
        args.b_block_scales + static_cast<int64_t>(tile.group) * blocks * args.tiles.k_blocks;
#pragma unroll
    for (int h = 0; h < (S::kDepth ? 0 : S::kHalves); ++h) {
      const int column = tile.column + h * S::kWidth;
      const int block = column / 128 < blocks ? column / 128 : blocks - 1;
      const int next = block + 1 < blocks ? block + 1 : block;
      if (h == 0) split = (block + 1) * 128 - column;
      at_first_[h] = scales + static_cast<int64_t>(block) * args.tiles.k_blocks;
      at_second_[h] = scales + static_cast<int64_t>(next) * args.tiles.k_blocks;
    }
  }
  template <int kSplit>
  __device__ __forceinline__ void load(int k_block) {
#pragma unroll
    for (int h = 0; h < (S::kDepth ? 0 : S::kHalves); ++h) {
      first[h] = ptx::load_global(at_first_[h] + k_block);
      if constexpr (kSplit < S::kWidth) second[h] = ptx::load_global(at_second_[h] + k_block);
    }
  }

 private:
  const float* at_first_[S::kHalves] = {};
  const float* at_second_[S::kHalves] = {};
};

// sums += product * scales of one 128-block of a thread's two rows, 8 apart, and kWidth columns,
// whose weights' scales change at column kSplit.
template <int kWidth, int kSplit>
__device__ __forceinline__ void promote(float (&sums)[kWidth / 2],
                                        const float (&product)[kWidth / 2],
                                        float row0,
                                        float row1,
                                        float first,
                                        float second) {
  const float of_row0[2] = {row0 * first, row0 * second};
  const float of_row1[2] = {row1 * first, row1 * second};
#pragma unroll
  for (int i = 0; i < kWidth / 8; ++i) {
    const float s0 = of_row0[8 * i >= kSplit];
    const float s1 = of_row1[8 * i >= kSplit];
    sums[4 * i] = ptx::multiply_add(product[4 * i], s0, sums[4 * i]);
    sums[4 * i + 1] = ptx::multiply_add(product[4 * i + 1], s0, sums[4 * i + 1]);
    sums[4 * i + 2] = ptx::multiply_add(product[4 * i + 2], s1, sums[4 * i + 2]);
    sums[4 * i + 3] = ptx::multiply_add(product[4 * i + 3], s1, sums[4 * i + 3]);
  }
}

// Calls f with the column where the scales of kWidth weights change as a constant: known edges cost
// nothing. They are multiples of the largest power of two that divides kWidth.
template <int kWidth, int kSplit = (kWidth & -kWidth), class F>
__device__ __forceinline__ void with_split(int split, const F& f) {
  if constexpr (kSplit >= kWidth || kSplit == 128) {
    f.template operator()<kSplit>();
  } else if (split == kSplit) {
    f.template operator()<kSplit>();
  } else {
    with_split<kWidth, kSplit + (kWidth & -kWidth)>(split, f);
  }
}

struct alignas(8) Pair {
  float x, y;
};

// The scales of a weight gradient's columns, of which every thread needs two in eight. All are read
// while the warp group's own products are made: read afterwards, they wait for the products of the
// other warp group, which leave shared memory little time (an H200: 9% slower).
template <int kWidth>
struct ColumnScales {
  Pair at[kWidth / 8];
  __device__ __forceinline__ ColumnScales(uint32_t scales, int lane) {
#pragma unroll
    for (int i = 0; i < kWidth / 8; ++i) {
      at[i] = ptx::load_shared<Pair>(scales + static_cast<uint32_t>((8 * i + 2 * (lane % 4)) * 4));
    }
  }
};

template <int kWidth>
__device__ __forceinline__ void promote(float (&sums)[kWidth / 2],
                                        const float (&product)[kWidth / 2],
                                        float row0,
                                        float row1,
                                        const ColumnScales<kWidth>& columns) {
#pragma unroll
  for (int i = 0; i < kWidth / 8; ++i) {
    const Pair column = columns.at[i];
    sums[4 * i] = ptx::multiply_add(product[4 * i], row0 * column.x, sums[4 * i]);
    sums[4 * i + 1] = ptx::multiply_add(product[4 * i + 1], row0 * column.y, sums[4 * i + 1]);
    sums[4 * i + 2] = ptx::multiply_add(product[4 * i + 2], row1 * column.x, sums[4 * i + 2]);
    sums[4 * i + 3] = ptx::multiply_add(product[4 * i + 3], row1 * column.y, sums[4 * i + 3]);
  }
}

struct NoScales {
  __device__ __forceinline__ NoScales(uint32_t, int) {}
};
template <class S>
using OwnScales = std::conditional_t<S::kDepth, ColumnScales<S::kWidth>, NoScales>;

// Writes one box of results to shared memory, swizzled, and has it stored.
template <class S>
__device__ __forceinline__ void put_box(
    const float (&sums)[S::kHalves][S::kWidth / 2], int box, uint32_t slot, int warp, int lane) {
  constexpr uint32_t kSwizzleMask = S::kBoxRowBytes / 16 - 1;
  const int half = box * S::kBoxColumns / S::kWidth;
  const int first = box * S::kBoxColumns % S::kWidth / 8;  // groups of 8 columns
  const auto place = [&](int row, int byte) {
    const uint32_t at = slot + static_cast<uint32_t>(row * S::kBoxRowBytes + byte);
    return at ^ ((at >> 7 & kSwizzleMask) << 4);
  };
  if constexpr (S::kDepth) {
    const int row = 16 * warp + lane / 4;
#pragma unroll
    for (int i = 0; i < S::kBoxColumns / 8; ++i) {
      const int byte = (8 * i + 2 * (lane % 4)) * 4;
      const float* s = &sums[half][4 * (first + i)];
      ptx::store_shared(place(row, byte), Pair{s[0], s[1]});
      ptx::store_shared(place(row + 8, byte), Pair{s[2], s[3]});
    }
  } else {
    const int row = 16 * warp + lane % 16;
#pragma unroll
    for (int i = 0; i < S::kBoxColumns / 8; i += 2) {
      const float* s = &sums[half][4 * (first + i)];
      const uint32_t values[4] = {ptx::to_bf16x2(s[0], s[1]),
                                  ptx::to_bf16x2(s[2], s[3]),
                                  ptx::to_bf16x2(s[4], s[5]),
                                  ptx::to_bf16x2(s[6], s[7])};
      ptx::store_matrix_x4(place(row, (i + lane / 16) * 16), values);
    }
  }
}

// A math warp group: all its tiles.
template <class S>
__device__ __forceinline__ void multiply(const GemmArguments& args, uint32_t base, int group) {
  const int lane = ptx::thread_index() % 32;
  const int warp = ptx::uniform(ptx::thread_index() / 32 % 4);
  const int own_row = group * 64 + warp * 16 + lane / 4;
  const uint32_t slots = base + S::kOut + static_cast<uint32_t>(group * S::kSlots * S::kBoxBytes);
  int slot = 0;
  // Stages until the second warp group, which waits here, may begin.
  int lead = group == 0 ? S::kLead : 0;
  const auto let_second_begin = [] { ptx::arrive_named(kLeadBarrier, 256); };
  if (S::kLead > 0 && group == 1) ptx::sync_named(kLeadBarrier, 256);
  Ring<S> ring{base};
  Tiles<S::kTileN, S::kCluster, S::kDepth> tiles(args.tiles);
  for (Tile tile; tiles.next(tile);) {
    if (tile.idle) {
      for (int i = 0; i < tile.k_blocks; ++i, ring.advance()) {
        ptx::wait_barrier(ring.full(), ring.parity, "full");
        release<S>(ring, lane);
        if (lead > 0 && --lead == 0) let_second_begin();
      }
      continue;
    }

    WeightScales<S> weights(args, tile);
    float sums[S::kHalves][S::kWidth / 2] = {};
    const auto add_blocks = [&]<int kSplit>() {
#pragma unroll 1
      for (int i = 0; i < tile.k_blocks; ++i, ring.advance()) {
        weights.template load<kSplit>(i);
        ptx::wait_barrier(ring.full(), ring.parity, "full");
        const float row0 = ptx::load_shared<float>(ring.scales_a() + own_row * 4);
        const float row1 = ptx::load_shared<float>(ring.scales_a() + (own_row + 8) * 4);
        const uint64_t a = ptx::operand(ring.a() + group * 64 * kTileK);
#pragma unroll
        for (int h = 0; h < S::kHalves; ++h) {
          float product[S::kWidth / 2];
          const uint64_t b = ptx::operand(ring.b() + h * S::kWidth * kTileK);
          ptx::keep(product);
          ptx::fence_products();
#pragma unroll
          for (int k = 0; k < kTileK; k += 32) {
            ptx::multiply_e4m3<S::kWidth>(product, ptx::advance(a, k), ptx::advance(b, k), k > 0);
          }
          ptx::commit_products();
          ptx::keep(product);
          const OwnScales<S> columns(ring.scales_b() + h * S::kWidth * 4, lane);
          ptx::wait_products<0>();
          ptx::keep(product);
          if (h == S::kHalves - 1) release<S>(ring, lane);
          if constexpr (S::kDepth) {
            promote<S::kWidth>(sums[h], product, row0, row1, columns);
          } else {
            promote<S::kWidth, kSplit>(
                sums[h], product, row0, row1, weights.first[h], weights.second[h]);
          }
        }
        if (lead > 0 && --lead == 0) let_second_begin();
      }
    };
    with_split<S::kDepth ? 128 : S::kWidth>(weights.split, add_blocks);

#pragma unroll
    for (int box = 0; box < S::kTileN / S::kBoxColumns; ++box) {
      const int column = tile.column + box * S::kBoxColumns;
      if (column < args.tiles.n) {
        const uint32_t at = slots + static_cast<uint32_t>(slot * S::kBoxBytes);
        if (warp == 0 && ptx::elect_one()) ptx::wait_stores_read<S::kSlots - 1>();
        ptx::sync_named(1 + group, 128);
        put_box<S>(sums, box, at, warp, lane);
        ptx::fence_async_shared();
        ptx::sync_named(1 + group, 128);
        if (warp == 0 && ptx::elect_one()) {
          if constexpr (S::kDepth) {
            ptx::add_tensor(args.d, at, column, tile.row + group * 64, tile.group);
          } else {
            ptx::store_tensor(args.d, at, column, tile.row + group * 64, 0);
          }
          ptx::commit_stores();
        }
        slot = (slot + 1) % S::kSlots;
      }
    }
  }
  if (lead > 0) let_second_begin();
  if (warp == 0 && ptx::elect_one()) ptx::wait_stores_read<0>();
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    fp8_gemm_kernel(const __grid_constant__ GemmArguments args) {
  const uint32_t base = ptx::shared_base();
  const int thread = ptx::thread_index();
  if (thread == 0) {
    ptx::prefetch_map(args.a);
    ptx::prefetch_map(args.b);
    ptx::prefetch_map(args.a_scales);
    ptx::prefetch_map(args.d);
    Ring<S> ring{base};
    for (int s = 0; s < S::kStages; ++s, ring.advance()) {
      ptx::barrier_init(ring.full(), 1, "full");
      ptx::barrier_init(ring.empty(), S::kCluster * S::kMathWarps, "empty");
    }
    ptx::fence_barrier_init();
  }
  if constexpr (S::kCluster > 1) {
    ptx::sync_cluster();
  } else {
    ptx::sync_block();
  }
  // All before this may run while the kernel before still ends.
  ptx::wait_for_kernel_before();
  ptx::let_next_kernel_start();
  // 128 * 24 + 256 * 240 registers are nearly the 64K of an SM.
  const int warp = ptx::uniform(thread / 32);
  const int group = warp / 4;
  if (group == 2) {
    ptx::decrease_registers<24>();
    if (warp == S::kMathWarps && ptx::elect_one()) produce<S>(args, base);
  } else {
    ptx::increase_registers<240>();
    multiply<S>(args, base, group);
  }
  // Until here the other block may still copy into this one, or arrive at its barriers.
  if constexpr (S::kCluster > 1) ptx::sync_cluster();
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
