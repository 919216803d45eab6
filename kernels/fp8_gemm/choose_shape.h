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
  int lead = 0;     // blocks of 128 along the contraction that one warp group is ahead of the other
  bool operator==(const TileShape&) const = default;
};

// All that the kernels are compiled for.
std::vector<TileShape> compiled_shapes(bool weight_gradient);

// "128x256, clusters of 2, lead 2".
std::string to_string(const TileShape& shape);

// The work of a product, of either kind; m rows over all groups, or k tokens.
struct ProductSize {
  int64_t m = 0, n = 0, k = 0;
  int groups = 1;
  int sms = 132;
  bool weight_gradient = false;
  // Other kernels hold the rest of the SMs meanwhile. A cluster of two waits for two free SMs of
  // one GPC, which they may leave single: the last cluster then runs alone, in twice the time.
  bool shares_device = false;
};

// Clocks that 128 of the contraction keep an SM's shared memory busy: operands as `wgmma` reads
// them, what the copies write, scales.
double shared_clocks(const TileShape& shape, bool weight_gradient);

// Clocks of an SM, on paper: waves of tiles over the SMs, each as long as its tensor-core work
// (4096 FP8 multiply-adds per clock), its traffic of shared memory (128 bytes per clock) or its
// reads from L2 (about 39 bytes per clock and SM: 5120 over 132 SMs), whichever takes longest, and
// what is not hidden behind them, which is measured.
double estimate_clocks(const ProductSize& size, const TileShape& shape);

// The compiled shape with the least of these.
TileShape choose_shape(const ProductSize& size);

}  // namespace rehearse::kernels
