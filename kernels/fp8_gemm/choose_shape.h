#pragma once
// Which of the compiled tile shapes a product gets.

#include <cstdint>
#include <string>
#include <vector>

namespace rehearse::kernels {

struct TileShape {
  int width = 128;  // columns per product of a warp group
  int halves = 1;   // of them side by side
  int cluster = 1;  // blocks that share the right operand
  bool operator==(const TileShape&) const = default;
};

// All that the kernels are compiled for.
std::vector<TileShape> compiled_shapes(bool weight_gradient);

// "128x256, clusters of 2".
std::string to_string(const TileShape& shape);

// The shape with the shortest time by this estimate, in clocks of an SM: waves of tiles over the
// SMs, each as long as its tensor-core work (4096 FP8 multiply-adds per clock) or its reads from L2
// (about 39 bytes per clock and SM: 5120 over 132 SMs), whichever takes longer, and its epilogue.
// m: rows of all groups.
TileShape choose_shape(int64_t m, int64_t n, int64_t k, int groups, int sms, bool weight_gradient);

}  // namespace rehearse::kernels
