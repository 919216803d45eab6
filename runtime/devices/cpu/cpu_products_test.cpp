// Products of FP8 on cores beside FP64 ones of the values before they were codes: within what the
// format allows, none of it fitted; and tensor cores' sums beside the GPU kernels' reference.

#include <algorithm>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "base/random.h"
#include "cost/layer.h"
#include "kernels/fp8_gemm/fp8_gemm.h"
#include "plan/plan.h"
#include "runtime/devices/cpu/cpu_compute.h"

namespace rehearse {
namespace {

using kernels::kScaleBlock;

// Values in FP64 and how far what is multiplied in their stead may be from each.
struct Operand {
  Operand(int64_t r, int64_t c)
      : rows(r), columns(c), values(static_cast<size_t>(r * c)), errors(values.size()) {}
  int64_t rows, columns;
  std::vector<double> values, errors;

  // One more rounding to E4M3 in tiles of high x wide: half of the last of three bits of mantissa,
  // or, below the smallest normal, half of 2^-9 of the scale; and the scale's own rounding.
  void round(int64_t high, int64_t wide) {
    std::vector<double> before = errors;
    for (int64_t top = 0; top < rows; top += high) {
      for (int64_t left = 0; left < columns; left += wide) {
        const auto each = [&](auto visit) {
          for (int64_t i = top; i < std::min(rows, top + high); ++i) {
            for (int64_t j = left; j < std::min(columns, left + wide); ++j) {
              visit(static_cast<size_t>(i * columns + j));
            }
          }
        };
        double amax = 0;
        each([&](size_t at) { amax = std::max(amax, std::abs(values[at]) + before[at]); });
        each([&](size_t at) {
          const double most = std::abs(values[at]) + before[at];
          errors[at] += std::max(most * 0x1p-4, amax / 448 * 0x1p-10) + most * 0x1p-20;
        });
      }
    }
  }
};

// Normal numbers of scales that differ from row to row, with outliers.
Operand drawn(int64_t rows, int64_t columns, double scale, uint64_t seed) {
  Operand x(rows, columns);
  Random random(seed);
  for (int64_t i = 0; i < rows; ++i) {
    const double of_row = scale * std::exp2(3 * random.normal());
    for (int64_t j = 0; j < columns; ++j) {
      const double outlier = random.uniform() < 0.002 ? 50 : 1;
      // What BF16 holds, as tensors between ops do.
      x.values[static_cast<size_t>(i * columns + j)] = static_cast<double>(kernels::to_float(
          kernels::to_bf16(static_cast<float>(of_row * outlier * random.normal()))));
    }
  }
  return x;
}

Tensor tensor_of(const Operand& x, const Encoding& type, BufferPool& pool) {
  Tensor wide(pool, x.rows, x.columns);
  std::transform(x.values.begin(), x.values.end(), wide.data(), [](double v) {
    return static_cast<float>(v);
  });
  return converted(converted(wide, DType::kBf16, pool), type, pool);
}

// got [m, n] beside the sum over l of a(i, l) b(j, l), of FP32 sums.
template <typename A, typename B>
void expect_product(const float* got,
                    int64_t m,
                    int64_t n,
                    int64_t k,
                    const Operand& x,
                    const Operand& y,
                    A at_x,
                    B at_y,
                    const std::string& what) {
  double worst = 0;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, bound = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const auto p = static_cast<size_t>(at_x(i, l));
        const auto q = static_cast<size_t>(at_y(j, l));
        const double a = std::abs(x.values[p]) + x.errors[p];
        const double b = std::abs(y.values[q]) + y.errors[q];
        sum += x.values[p] * y.values[q];
        bound += a * y.errors[q] + b * x.errors[p];
        magnitude += a * b;
      }
      bound += magnitude * static_cast<double>(k) * 0x1p-24;
      const double error = std::abs(static_cast<double>(got[i * n + j]) - sum);
      ASSERT_LE(error, bound) << what << " at " << i << ", " << j;
      worst = std::max(worst, bound == 0 ? 0 : error / bound);
    }
  }
  EXPECT_GT(worst, 0.01) << what << ": the bound says nothing";
}

struct Shape {
  int64_t out, in;
  auto operator<=>(const Shape&) const = default;
};
// Of every linear of a model's layers.
std::set<Shape> linears_of(const std::string& model) {
  const Layers layers(load_model(find_shared(model, "models")).architecture);
  const int64_t hidden = layers.architecture.hidden;
  std::set<Shape> shapes = {{hidden, 2 * hidden}};  // an MTP module's
  const auto add = [&](const Linear& l) { shapes.insert({l.out, l.in}); };
  for (const bool moe : {false, true}) {
    const Layer& layer = layers.of(moe);
    for (const Linear& l : layer.projections()) add(l);
    for (const auto& f : {layer.dense, layer.shared, layer.experts}) {
      if (!f) continue;
      add(f->gate_up);
      add(f->down);
    }
  }
  return shapes;
}

void expect_three_products(const Shape& s, int64_t tokens, double gradient_scale) {
  BufferPool pool;
  const kernels::RopeTable rope(4, 4, 10000);
  const CpuCompute cores(pool, rope);
  const std::string what =
      std::to_string(tokens) + " x " + std::to_string(s.in) + " to " + std::to_string(s.out);
  Operand x = drawn(tokens, s.in, 1, 1), w = drawn(s.out, s.in, 0.02, 2),
          dy = drawn(tokens, s.out, gradient_scale, 3);
  const Tensor codes_x = tensor_of(x, DType::kFp8, pool);
  const Tensor codes_w = tensor_of(w, DType::kFp8Blocks, pool);
  const Tensor codes_dy = tensor_of(dy, DType::kFp8, pool);
  x.round(1, kScaleBlock);
  w.round(kScaleBlock, kScaleBlock);
  dy.round(1, kScaleBlock);
  const auto by_row = [](int64_t columns) {
    return [columns](int64_t i, int64_t l) { return i * columns + l; };
  };
  const auto by_column = [](int64_t columns) {
    return [columns](int64_t i, int64_t l) { return l * columns + i; };
  };
  const Tensor y = cores.product(codes_x, codes_w, DType::kFp32, {});
  expect_product(y.data(), tokens, s.out, s.in, x, w, by_row(s.in), by_row(s.in), what);
  const Tensor dx = cores.product_input(codes_dy, codes_w);
  expect_product(
      dx.data(), tokens, s.in, s.out, dy, w, by_row(s.out), by_column(s.in), what + ", dx");
  Tensor dw = cores.zeros(s.out, s.in);
  cores.product_weight(codes_dy, codes_x, {.fp8 = true}, dw);
  x.round(kScaleBlock, 1);
  dy.round(kScaleBlock, 1);
  expect_product(
      dw.data(), s.out, s.in, tokens, dy, x, by_column(s.out), by_column(s.in), what + ", dw");
}

TEST(Fp8Products, OfEveryLinearAreWithinTheFormatsBound) {
  for (const char* model : {"tiny-v3", "v3-100m"}) {
    for (const Shape& s : linears_of(model)) expect_three_products(s, 33, 1e-3);
  }
  // Edges of tiles along every dimension, and gradients of a mean over millions of tokens.
  for (const Shape& s : {Shape{96, 64}, {64, 96}, {129, 257}, {1, 130}}) {
    for (const int64_t tokens : {1, 127, 129, 300}) expect_three_products(s, tokens, 1e-9);
  }
}

// Rows of experts, some without any: each expert's as a product of its own.
TEST(Fp8Products, OfExpertsAreThoseOfEach) {
  BufferPool pool;
  const kernels::RopeTable rope(4, 4, 10000);
  constexpr int64_t kIn = 160;
  constexpr int64_t kOut = 96;
  const std::vector<int32_t> counts = {130, 0, 7, 128, 1};
  for (const auto& accumulation :
       {std::optional<kernels::Accumulation>(), std::optional<kernels::Accumulation>({})}) {
    const CpuCompute cores(pool, rope, accumulation);
    std::vector<int32_t> slots;  // one expert a token
    for (size_t e = 0; e < counts.size(); ++e) {
      slots.insert(slots.end(), static_cast<size_t>(counts[e]), static_cast<int32_t>(e));
    }
    int64_t overflowed = 0;
    Tensor chosen = cores.from_host(slots);
    const RowMap map =
        cores.map_rows(chosen, std::ssize(counts), Array({DType::kInt64, 1, 1}, &overflowed));
    const int64_t rows = std::ssize(slots);
    const Tensor x = tensor_of(drawn(rows, kIn, 1, 4), DType::kFp8, pool);
    const Tensor dy = tensor_of(drawn(rows, kOut, 1, 5), DType::kFp8, pool);
    std::vector<Tensor> w, dw;
    std::vector<ConstArray> weights;
    std::vector<Array> gradients;
    for (size_t e = 0; e < counts.size(); ++e) {
      w.push_back(tensor_of(drawn(kOut, kIn, 0.02, 10 + e), DType::kFp8Blocks, pool));
      dw.push_back(cores.zeros(kOut, kIn));
      weights.push_back(w.back());
      gradients.push_back(dw.back());
    }
    const AlongTokens rounded{.fp8 = true};
    const Tensor y = cores.grouped_product(x, weights, map, DType::kFp32);
    const Tensor dx = cores.grouped_product_input(dy, weights, map, DType::kFp32);
    cores.grouped_product_weight(dy, x, rounded, map, gradients);
    int64_t first = 0;
    for (size_t e = 0; e < counts.size(); ++e) {
      const int64_t count = counts[e];
      const auto part = [&](const Tensor& t) { return rows_of(t.array(), first, count); };
      const auto same = [](const float* a, const float* b, int64_t n) {
        return std::equal(a, a + n, b);
      };
      const Tensor own_y = cores.product(part(x), w[e], DType::kFp32, {});
      const Tensor own_dx = cores.product_input(part(dy), w[e]);
      Tensor own_dw = cores.zeros(kOut, kIn);
      cores.product_weight(part(dy), part(x), rounded, own_dw);
      EXPECT_TRUE(same(own_y.data(), y.data() + first * kOut, own_y.size())) << e;
      EXPECT_TRUE(same(own_dx.data(), dx.data() + first * kIn, own_dx.size())) << e;
      EXPECT_TRUE(same(own_dw.data(), dw[e].data(), own_dw.size())) << e;
      first += count;
    }
    // Scales that rows share are of one expert's alone: another expert's rows change nothing.
    const Tensor wide = tensor_of(drawn(rows, 2 * kIn, 1, 6), DType::kBf16, pool);
    const Encoding blocks{DType::kFp8, {.rows = 128}};
    const Tensor weights_of_rows =
        cores.of_rows(map, tensor_of(drawn(rows, 1, 1, 7), DType::kFp32, pool));
    const Compute::Weighted weighted{map, weights_of_rows};
    const Tensor whole = cores.swiglu(wide, &weighted, blocks);
    const Tensor exact = cores.swiglu(wide, &weighted, DType::kFp32);
    const Tensor last = converted(rows_of(exact.array(), 137, 128), blocks, pool);
    EXPECT_TRUE(std::equal(last.codes(), last.codes() + last.size(), whole.codes() + 137 * kIn));
  }
}

// With tensor cores' sums all three products are what the GPU's kernels are held to.
TEST(Fp8Products, OfTensorCoresAreTheGpuKernelsReference) {
  BufferPool pool;
  const kernels::RopeTable rope(4, 4, 10000);
  const CpuCompute cores(pool, rope, kernels::Accumulation{});
  constexpr int64_t kTokens = 144;
  constexpr int64_t kIn = 208;
  constexpr int64_t kOut = 136;
  const Tensor x = tensor_of(drawn(kTokens, kIn, 1, 1), DType::kFp8, pool);
  const Tensor w = tensor_of(drawn(kOut, kIn, 0.02, 2), DType::kFp8Blocks, pool);
  const Tensor dy = tensor_of(drawn(kTokens, kOut, 1, 3), DType::kFp8, pool);
  const Tensor y = cores.product(x, w, DType::kFp32, {});
  const kernels::Fp8Product product{.x = x.codes(),
                                    .x_scales = x.scales(),
                                    .x_scale_stride = ConstArray(x).scale_stride,
                                    .w = w.codes(),
                                    .w_scales = w.scales(),
                                    .m = kTokens,
                                    .n = kOut,
                                    .k = kIn};
  for (int64_t i = 0; i < y.size(); ++i) {
    ASSERT_EQ(
        y.data()[i],
        kernels::fp8_gemm_element(product, 0, i / kOut, i % kOut, kernels::BlockSums::kTensorCore));
  }
  // dx: the same with the weights transposed, codes and scales.
  std::vector<uint8_t> turned(static_cast<size_t>(w.size()));
  std::vector<float> scales(4);
  for (int64_t r = 0; r < kOut; ++r) {
    for (int64_t c = 0; c < kIn; ++c) {
      turned[static_cast<size_t>(c * kOut + r)] = w.codes()[r * kIn + c];
      scales[static_cast<size_t>(c / 128 * 2 + r / 128)] = w.scales()[r / 128 * 2 + c / 128];
    }
  }
  const Tensor dx = cores.product_input(dy, w);
  const kernels::Fp8Product back{.x = dy.codes(),
                                 .x_scales = dy.scales(),
                                 .x_scale_stride = ConstArray(dy).scale_stride,
                                 .w = turned.data(),
                                 .w_scales = scales.data(),
                                 .m = kTokens,
                                 .n = kIn,
                                 .k = kOut};
  for (int64_t i = 0; i < dx.size(); ++i) {
    ASSERT_EQ(
        dx.data()[i],
        kernels::fp8_gemm_element(back, 0, i / kIn, i % kIn, kernels::BlockSums::kTensorCore));
  }
}

}  // namespace
}  // namespace rehearse
