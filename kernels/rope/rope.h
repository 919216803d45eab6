#pragma once
// Rotary position embedding in place: (x0, x1) of pair p at position t turn by the angle
// t theta^(-2p/width). Source: Su et al. 2021.

#include <cstdint>
#include <span>
#include <vector>

namespace rehearse::kernels {

// cos and sin of every angle; made once per model and sequence length.
struct RopeTable {
  RopeTable(int64_t length, int64_t width, double theta);
  // frequencies: of every pair, radians per position; amplitude: a factor on both.
  RopeTable(int64_t length, std::span<const double> frequencies, double amplitude);
  int64_t length;             // positions
  int64_t width;              // even
  std::vector<float> cosine;  // [length, width / 2]
  std::vector<float> sine;    // [length, width / 2]
};

// Which elements are pair p.
enum class RopePairs : uint8_t {
  kNeighbours,  // 2p and 2p + 1: DeepSeek's released code
  kHalves,      // p and width / 2 + p: Llama's, Qwen's, and most of Hugging Face's
};

struct RopeShape {
  int64_t rows = 0;  // tokens; row i has position i mod table.length
  int64_t heads = 1;
  int64_t row_stride = 0;   // elements between tokens
  int64_t head_stride = 0;  // elements between heads of a token
  RopePairs pairs = RopePairs::kNeighbours;
};

enum class Turn : uint8_t { kForward, kBackward };

// x points at the first rotated element of token 0, head 0. The gradient of a rotation is the
// rotation backwards, so the backward pass is Turn::kBackward on the gradient.
void rope(const RopeShape& s, const RopeTable& table, Turn turn, float* x);

void rope_reference(const RopeShape& s, const RopeTable& table, double theta, double* x);

}  // namespace rehearse::kernels
