#pragma once
// What the functions that start a layer's kernels have in common.

#include <cstdint>
#include <string>

#include "base/integers.h"
#include "kernels/ptx/arguments.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// blocks of threads, with shared bytes. Throws std::invalid_argument for more than a grid has.
inline LaunchShape grid_of(const Arguments& arguments,
                           int64_t blocks,
                           int threads,
                           int shared_bytes = 0) {
  arguments.require(blocks > 0 && blocks < int64_t{1} << 31,
                    std::to_string(blocks) + " blocks of work, not 1 to 2^31 - 1");
  LaunchShape shape;
  shape.blocks = static_cast<int>(blocks);
  shape.threads = threads;
  shape.shared_bytes = shared_bytes;
  return shape;
}

}  // namespace rehearse::kernels
