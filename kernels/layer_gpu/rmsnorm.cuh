#pragma once
// The kernels behind rmsnorm and rmsnorm_backward.

#include "kernels/layer_gpu/rmsnorm.h"
#include "kernels/layer_gpu/rows.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads) rmsnorm_kernel(const __grid_constant__ Arguments n) {
  const int64_t row = ptx::block_index();
  const int64_t from = row * n.x_stride;
  float squares = 0;
  for (int64_t c = ptx::thread_index(); c < n.width; c += kRowThreads) {
    const float x = load(n.x, from + c);
    squares = ptx::multiply_add(x, x, squares);
  }
  const float mean = sum_over_block(squares) / static_cast<float>(n.width);
  const float inverse = 1 / sqrtf(mean + n.eps);
  if (ptx::thread_index() == 0) ptx::store_global(n.inverse + row, inverse);
  for (int64_t c = ptx::thread_index(); c < n.width; c += kRowThreads) {
    store(n.y, row * n.width + c, load(n.x, from + c) * inverse * load(n.gain, c));
  }
}

// dx = inverse (g - x^ mean(g x^)), g = dy gain, x^ = x inverse.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    rmsnorm_input_kernel(const __grid_constant__ Arguments n) {
  const int64_t row = ptx::block_index();
  const int64_t at = row * n.x_stride;
  const float inverse = ptx::load_global(n.inverse + row);
  float dot = 0;
  for (int64_t c = ptx::thread_index(); c < n.width; c += kRowThreads) {
    const float g = load(n.dy, row * n.width + c) * load(n.gain, c);
    dot = ptx::multiply_add(g, load(n.x, at + c) * inverse, dot);
  }
  const float mean = sum_over_block(dot) / static_cast<float>(n.width);
  for (int64_t c = ptx::thread_index(); c < n.width; c += kRowThreads) {
    const float g = load(n.dy, row * n.width + c) * load(n.gain, c);
    float dx = inverse * (g - load(n.x, at + c) * inverse * mean);
    if (there(n.addend)) dx += load(n.addend, at + c);
    store(n.dx, at + c, dx);
  }
}

// A block: 256 columns of a chunk of rows, a column per thread.
template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    rmsnorm_partial_kernel(const __grid_constant__ Arguments n) {
  const int64_t across = (n.width + kRowThreads - 1) / kRowThreads;
  const int64_t chunk = ptx::block_index() / across;
  const int64_t column = ptx::block_index() % across * kRowThreads + ptx::thread_index();
  if (column >= n.width) return;
  const int64_t first = chunk * kRmsNormChunk;
  const int64_t end = first + kRmsNormChunk < n.rows ? first + kRmsNormChunk : n.rows;
  float sum = 0;
  for (int64_t row = first; row < end; ++row) {
    sum =
        ptx::multiply_add(load(n.dy, row * n.width + column),
                          load(n.x, row * n.x_stride + column) * ptx::load_global(n.inverse + row),
                          sum);
  }
  ptx::store_global(n.partial + chunk * n.width + column, sum);
}

template <class Arguments>
__global__ void __launch_bounds__(kRowThreads)
    rmsnorm_gain_kernel(const __grid_constant__ Arguments n) {
  const int64_t column = int64_t{ptx::block_index()} * kRowThreads + ptx::thread_index();
  if (column >= n.width) return;
  float sum = ptx::load_own(n.d_gain + column);
  for (int64_t chunk = 0; chunk * kRmsNormChunk < n.rows; ++chunk) {
    sum += ptx::load_global(n.partial + chunk * n.width + column);
  }
  ptx::store_global(n.d_gain + column, sum);
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
