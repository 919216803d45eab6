#include <algorithm>
#include <array>
#include <cmath>

#include "base/integers.h"
#include "kernels/formats/tensor_core.h"
#include "kernels/fp8_gemm/fp8_gemm.h"

namespace rehearse::kernels {
namespace {

constexpr int64_t kInstruction = 32;  // products of one wgmma

// An element of either product: blocks of at most 128 codes of both sides, and their scale.
struct Block {
  const uint8_t* a;
  const uint8_t* b;
  int64_t count;
  float scale;
};

template <class Visit>
void for_each_block(const Fp8Product& p, int g, int64_t row, int64_t column, Visit visit) {
  const int64_t k_blocks = ceil_div(p.k, kScaleBlock);
  const float* w_scales =
      p.w_scales + (g * ceil_div(p.n, kScaleBlock) + column / kScaleBlock) * k_blocks;
  for (int64_t b = 0; b < k_blocks; ++b) {
    const int64_t first = b * kScaleBlock;
    visit(Block{p.x + row * p.k + first,
                p.w + (g * p.n + column) * p.k + first,
                std::min<int64_t>(kScaleBlock, p.k - first),
                p.x_scales[b * p.x_scale_stride + row] * w_scales[b]});
  }
}

template <class Visit>
void for_each_block(const Fp8WeightGradient& p, int g, int64_t row, int64_t column, Visit visit) {
  int64_t begin = 0;
  int64_t end = p.tokens;
  if (p.rows) {
    for (int h = 0; h < g; ++h) begin += ceil_div(p.rows[h], kScaleBlock) * kScaleBlock;
    end = begin + ceil_div(p.rows[g], kScaleBlock) * kScaleBlock;
  }
  for (int64_t first = begin; first < end; first += kScaleBlock) {
    const int64_t b = first / kScaleBlock;
    visit(Block{
        p.dy + row * p.tokens + first,
        p.x + column * p.tokens + first,
        std::min<int64_t>(kScaleBlock, end - first),
        p.dy_scales[b * p.dy_scale_stride + row] * p.x_scales[b * p.x_scale_stride + column]});
  }
}

const std::array<double, 256> kValues = [] {
  std::array<double, 256> t{};
  for (int c = 0; c < 256; ++c) t[c] = static_cast<double>(from_e4m3(static_cast<uint8_t>(c)));
  return t;
}();

double value(uint8_t code) {
  return kValues[code];
}

// Products of codes are multiples of 2^-18 not above 2^18, so that a double holds every sum of 128
// exactly.
float sum_of(const Block& b, BlockSums sums) {
  if (sums == BlockSums::kExact) {
    double sum = 0;
    for (int64_t i = 0; i < b.count; ++i) sum += value(b.a[i]) * value(b.b[i]);
    return static_cast<float>(sum);
  }
  float sum = 0;
  for (int64_t i = 0; i < b.count; i += kInstruction) {
    std::array<uint8_t, kInstruction> x{}, y{};
    std::copy_n(b.a + i, std::min(kInstruction, b.count - i), x.begin());
    std::copy_n(b.b + i, std::min(kInstruction, b.count - i), y.begin());
    sum = tensor_core_e4m3(x.data(), y.data(), sum);
  }
  return sum;
}

template <class Problem>
float element(const Problem& p, int g, int64_t row, int64_t column, BlockSums sums) {
  float sum = 0;
  for_each_block(
      p, g, row, column, [&](const Block& b) { sum = std::fma(sum_of(b, sums), b.scale, sum); });
  return sum;
}

template <class Problem>
ElementError error(const Problem& p, int g, int64_t row, int64_t column) {
  ElementError e;
  double sum = 0;
  for_each_block(p, g, row, column, [&](const Block& b) {
    double block = 0;
    double top = 0;
    for (int64_t i = 0; i < b.count; ++i) {
      const double product = value(b.a[i]) * value(b.b[i]);
      block += product;
      top = std::max(top, std::abs(product));
      // The sum that enters the next instruction is itself cut: 2% covers all cuts before.
      if ((i + 1) % kInstruction == 0) top = std::max(top, std::abs(block) * 1.02);
    }
    if (top == 0) return;
    const double cut = std::ldexp(1.0, std::ilogb(top) - kAccumulatorBits);
    const double scale = std::abs(static_cast<double>(b.scale));
    // 32 products and the sum so far are cut, and so is what comes out.
    const double cuts = static_cast<double>(ceil_div(b.count, kInstruction) * (kInstruction + 2));
    e.bound += cuts * cut * scale;
    e.variance += cuts * cut * cut * scale * scale / 3;
    sum += std::abs(block) * scale;
    e.bound += std::ldexp(sum, -24) * 2;  // FP32: the scale's product, and the sum
  });
  return e;
}

}  // namespace

float fp8_gemm_element(const Fp8Product& p, int g, int64_t row, int64_t column, BlockSums sums) {
  return element(p, g, row, column, sums);
}

float fp8_weight_gradient_element(
    const Fp8WeightGradient& p, int g, int64_t row, int64_t column, BlockSums sums) {
  return element(p, g, row, column, sums);
}

ElementError fp8_gemm_error(const Fp8Product& p, int g, int64_t row, int64_t column) {
  return error(p, g, row, column);
}

ElementError fp8_weight_gradient_error(const Fp8WeightGradient& p,
                                       int g,
                                       int64_t row,
                                       int64_t column) {
  return error(p, g, row, column);
}

void fp8_gemm_reference(const Fp8Product& p, BlockSums sums) {
  int64_t begin = 0;
  for (int g = 0; g < p.groups; ++g) {
    const int64_t rows = p.rows ? p.rows[g] : p.m;
    for (int64_t i = begin; i < begin + rows; ++i) {
      for (int64_t j = 0; j < p.n; ++j) p.y[i * p.n + j] = to_bf16(element(p, g, i, j, sums));
    }
    begin += ceil_div(rows, kScaleBlock) * kScaleBlock;
  }
}

void fp8_weight_gradient_reference(const Fp8WeightGradient& p, BlockSums sums) {
  for (int g = 0; g < p.groups; ++g) {
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        p.dw[(g * p.m + i) * p.n + j] += element(p, g, i, j, sums);
      }
    }
  }
}

}  // namespace rehearse::kernels
