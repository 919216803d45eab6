#pragma once
// The kernels behind moves.h.

#include "kernels/layer_gpu/moves.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) move_kernel(const __grid_constant__ Arguments m) {
  const int parts = static_cast<int>(m.parts);
  const int64_t row = ptx::block_index() / parts;
  const int64_t part = ptx::block_index() % parts;
  for (int64_t c = ptx::thread_index(); c < m.width; c += kRowThreads) {
    ptx::store_global(m.to + row * m.to_row + part * m.to_part + c,
                      ptx::load_global(m.from + row * m.from_row + part * m.from_part + c));
  }
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) of_rows_kernel(const __grid_constant__ Arguments r) {
  const int64_t row = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (row >= r.capacity || !is_row(row, r.counts)) return;
  const int64_t token = ptx::load_global(r.token_of_row + row);
  ptx::store_global(
      r.rows + row,
      ptx::load_global(r.choices + token * r.active + ptx::load_global(r.choice_of_row + row)));
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    of_choices_kernel(const __grid_constant__ Arguments c) {
  const int i = ptx::block_index() * kRowThreads + ptx::thread_index();
  const int active = static_cast<int>(c.active);
  if (i >= c.tokens * c.active) return;
  const int32_t row = ptx::load_global(c.row_of + i);
  ptx::store_global(c.to + i / active * c.to_row + i % active,
                    row < 0 ? 0.0f : ptx::load_global(c.rows + row));
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) look_up_kernel(const __grid_constant__ Arguments l) {
  const int64_t i = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (i >= l.count) return;
  ptx::store_global(l.to + i, ptx::load_global(l.table + ptx::load_global(l.from + i)));
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
