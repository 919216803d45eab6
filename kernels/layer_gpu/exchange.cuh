#pragma once
// The kernels behind exchange.h.

#include "kernels/layer_gpu/exchange.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    destinations_kernel(const __grid_constant__ Arguments d) {
  const int parts = static_cast<int>(d.parts);
  const int active = static_cast<int>(d.active);
  const int i = ptx::block_index() * kRowThreads + ptx::thread_index();
  if (i >= static_cast<int>(d.tokens) * parts) return;
  const int token = i / parts, part = i % parts;
  bool goes = false;
  for (int k = 0; k < active; ++k) {
    const int slot = ptx::load_global(d.slots + token * active + k);
    const int member = slot / d.per_member - d.first_member;
    goes = goes || (slot >= 0 && member >= 0 && member / d.members_per_part == part);
  }
  ptx::store_global(d.goes + i, goes ? part : -1);
}

__device__ __forceinline__ int padded_to_tile(int rows) {
  constexpr int kTile = static_cast<int>(kRowsPadded);
  return (rows + kTile - 1) / kTile * kTile;
}

// Where rows for a part begin in a map.
__device__ __forceinline__ int first_row(const int32_t* rows, int part) {
  int first = 0;
  for (int p = 0; p < part; ++p) first += padded_to_tile(ptx::load_global(rows + p));
  return first;
}

// One thread of the launch: what came from others than itself, of `rows` rows each.
template <class Rows>
__device__ __forceinline__ void count_traffic(
    const GpuTraffic& traffic, int peers, int me, const auto* peer, Rows rows) {
  if (traffic.bytes == nullptr) return;
  for (int p = 0; p < peers; ++p) {
    if (p == me) continue;
    int64_t* const at = traffic.bytes + peer[p].rank;
    ptx::store_global(at, ptx::load_own(at) + rows(p) * traffic.row_bytes);
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) gather_kernel(const __grid_constant__ Arguments g) {
  const int thread = ptx::thread_index();
  const int width = static_cast<int>(g.width), active = static_cast<int>(g.active);
  const int capacity = static_cast<int>(g.capacity);
  const int begin = ptx::block_index() * kExpertRowsPerBlock;
  int total = 0;
  for (int p = 0; p < g.peers; ++p) total += ptx::load_global(g.peer[p].rows + g.part);
  for (int row = begin; row < begin + kExpertRowsPerBlock && row < capacity; ++row) {
    int own = row, p = 0;  // of peer p
    for (; p < g.peers; ++p) {
      const int here = ptx::load_global(g.peer[p].rows + g.part);
      if (own < here) break;
      own -= here;
    }
    const int64_t to = row;
    if (p == g.peers) {
      for (int k = thread; k < active && g.slots != nullptr; k += kRowThreads) {
        ptx::store_global(g.slots + to * active + k, -1);
      }
      continue;
    }
    const auto& peer = g.peer[p];
    const int64_t token = ptx::load_global(peer.token_of_row + first_row(peer.rows, g.part) + own);
    for (int c = thread; c < width; c += kRowThreads) {
      if (g.element_bytes == 1) {
        ptx::store_global(
            static_cast<uint8_t*>(g.x) + to * width + c,
            ptx::load_global(static_cast<const uint8_t*>(peer.x) + token * width + c));
      } else if (g.element_bytes == 2) {
        ptx::store_global(
            static_cast<uint16_t*>(g.x) + to * width + c,
            ptx::load_global(static_cast<const uint16_t*>(peer.x) + token * width + c));
      } else {
        ptx::store_global(static_cast<float*>(g.x) + to * width + c,
                          ptx::load_global(static_cast<const float*>(peer.x) + token * width + c));
      }
    }
    for (int t = thread; g.x_scales != nullptr && t * kScaleBlock < width; t += kRowThreads) {
      ptx::store_global(g.x_scales + t * g.x_scale_stride + row,
                        ptx::load_global(peer.x_scales + t * g.from_scale_stride + token));
    }
    for (int k = thread; k < active && g.slots != nullptr; k += kRowThreads) {
      ptx::store_global(g.weights + to * active + k,
                        ptx::load_global(peer.weights + token * active + k));
      int slot = ptx::load_global(peer.slots + token * active + k);
      if (g.own_slots > 0) {
        slot -= g.first_slot;
        if (slot < 0 || slot >= g.own_slots) slot = -1;
      }
      ptx::store_global(g.slots + to * active + k, slot);
    }
  }
  if (begin > 0 || thread > 0) return;
  if (g.overflowed != nullptr && total > capacity) {
    ptx::store_global(g.overflowed, ptx::load_own(g.overflowed) + (total - capacity));
  }
  count_traffic(g.traffic, g.peers, g.part, g.peer, [&](int p) {
    return int64_t{ptx::load_global(g.peer[p].rows + g.part)};
  });
}

__device__ __forceinline__ float through_bf16(float x) {
  const uint32_t bits = ptx::to_bf16x2(x, 0) << 16;
  float rounded;
  memcpy(&rounded, &bits, sizeof(rounded));
  return rounded;
}

// A block per token.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    sum_parts_kernel(const __grid_constant__ Arguments s) {
  const int64_t token = ptx::block_index();
  const int width = static_cast<int>(s.width);
  const int rounded = width - static_cast<int>(s.exact);
  const int32_t* const own_rows = s.peer[s.me].rows;
  for (int c = ptx::thread_index(); c < width; c += kRowThreads) {
    float sum = 0;
    int first = 0;  // of part j in this member's map
#pragma unroll 1
    for (int j = 0; j < s.peers; ++j) {
      const int at = ptx::load_global(s.row_of + token * s.peers + j);
      if (at >= 0) {
        int64_t row = at - first;
        for (int p = 0; p < s.me; ++p) row += ptx::load_global(s.peer[p].rows + j);
        if (row < s.capacity) {
          const float x = ptx::load_global(s.peer[j].values + row * width + c);
          sum += s.round_in && c < rounded ? through_bf16(x) : x;
        }
      }
      first += padded_to_tile(ptx::load_global(own_rows + j));
    }
    ptx::store_global(s.y + token * width + c,
                      s.round_out && c < rounded ? through_bf16(sum) : sum);
  }
  if (token > 0 || ptx::thread_index() > 0) return;
  count_traffic(s.traffic, s.peers, s.me, s.peer, [&](int j) {
    return int64_t{ptx::load_global(own_rows + j)};
  });
}

template <class T, class Arguments>
__device__ __forceinline__ void sum_plainly(const Arguments& s, int64_t i) {
  T sum = ptx::load_global(static_cast<const T*>(s.x[0]) + i);
  for (int m = 1; m < s.members; ++m) sum += ptx::load_global(static_cast<const T*>(s.x[m]) + i);
  ptx::store_global(static_cast<T*>(s.y) + i, sum);
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    sum_members_kernel(const __grid_constant__ Arguments s) {
  using Of = GpuSumMembers::Of;
  const int64_t i = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (i >= s.elements) return;
  if (s.of == Of::kFp32) return sum_plainly<float>(s, i);
  if (s.of == Of::kFp64) return sum_plainly<double>(s, i);
  if (s.of == Of::kInt64) return sum_plainly<int64_t>(s, i);
  ConstValues x;
  float sum = 0;
  for (int m = 0; m < s.members; ++m) {
    x.bf16 = static_cast<const Bf16*>(s.x[m]);
    sum = m == 0 ? load(x, i) : sum + load(x, i);
  }
  Values y;
  y.bf16 = static_cast<Bf16*>(s.y);
  store(y, i, sum);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
