// Products on cores: of FP32 values by the BLAS, or of codes as tensor cores make them.

#include "kernels/add/add.h"
#include "runtime/devices/cpu/cpu_compute.h"

namespace rehearse {

using kernels::MatmulShape;
using kernels::ScaledCodes;
using kernels::Store;

namespace {

kernels::WeightMatrix matrix(const ConstArray& w) {
  if (w.extent.type == DType::kFp8Blocks) return {w.codes(), w.scales};
  if (w.extent.type == DType::kBf16) return w.bf16();
  return w.fp32();
}

bool are_codes(const ConstArray& x, const ConstArray& w) {
  return x.extent.type == DType::kFp8 && w.extent.type == DType::kFp8Blocks;
}

ScaledCodes tiles(const ConstArray& x) {
  return ScaledCodes::of_tiles(x.extent.rows, x.codes(), x.scales, x.scale_stride);
}

// A matrix of codes, [rows, columns], the other way round, as the contraction of an input gradient
// runs.
std::vector<uint8_t> transposed(const ConstArray& w) {
  const Extent& e = w.extent;
  std::vector<uint8_t> codes(static_cast<size_t>(e.size()));
  for (int64_t r = 0; r < e.rows; ++r) {
    for (int64_t c = 0; c < e.columns; ++c) {
      codes[static_cast<size_t>(c * e.rows + r)] = w.codes()[r * e.columns + c];
    }
  }
  return codes;
}

// Codes along tokens, [columns, tokens], with their scales.
struct Turned {
  Turned(const float* x, int64_t tokens, int64_t columns, const kernels::ScaleRule& rule)
      : width(columns), codes(static_cast<size_t>(tokens * columns)) {
    scales.resize(
        static_cast<size_t>((tokens + kernels::kScaleBlock - 1) / kernels::kScaleBlock * columns));
    kernels::quantize_columns(tokens, columns, x, rule, codes.data(), scales.data(), columns);
  }
  ScaledCodes operand() const {
    return ScaledCodes::of_tiles(width, codes.data(), scales.data(), width);
  }
  int64_t width;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

// FP32 values of an operand as a weight gradient multiplies them.
Tensor along_tokens(const ConstArray& x, const kernels::ScaleRule& rule, BufferPool& pool) {
  Tensor values = converted(x, DType::kFp32, pool);
  kernels::round_columns(x.extent.rows, x.extent.columns, rule, values.data());
  return values;
}

}  // namespace

void CpuCompute::multiply(const ConstArray& x, const ConstArray& w, float* y) const {
  const MatmulShape shape{.m = x.extent.rows, .n = w.extent.rows, .k = w.extent.columns};
  if (accumulation_ && are_codes(x, w)) {
    kernels::fp8_product(shape.k,
                         tiles(x),
                         ScaledCodes::of_blocks(shape.n, shape.k, w.codes(), w.scales),
                         *accumulation_,
                         false,
                         y);
    return;
  }
  kernels::matmul(shape, fp32(x), matrix(w), y);
}

void CpuCompute::multiply_input(const ConstArray& dy,
                                const ConstArray& w,
                                Store store,
                                float* dx) const {
  const MatmulShape shape{.m = dy.extent.rows, .n = w.extent.rows, .k = w.extent.columns};
  if (accumulation_ && are_codes(dy, w)) {
    const std::vector<uint8_t> codes = transposed(w);
    const ScaledCodes turned{.codes = codes.data(),
                             .scales = w.scales,
                             .rows = shape.k,
                             .row_step = 1,
                             .block_step = w.extent.tiles(),
                             .scale_rows = kernels::kScaleBlock};
    kernels::fp8_product(
        shape.n, tiles(dy), turned, *accumulation_, store == Store::kAccumulate, dx);
    return;
  }
  kernels::matmul_grad_input(shape, fp32(dy), matrix(w), dx, store);
}

void CpuCompute::multiply_weight(const ConstArray& dy,
                                 const ConstArray& x,
                                 const AlongTokens& rounded,
                                 float* dw) const {
  const MatmulShape shape{.m = dy.extent.rows, .n = dy.extent.columns, .k = x.extent.columns};
  if (shape.m == 0) return;
  if (!rounded.fp8) {
    kernels::matmul_grad_weight(shape, fp32(dy), fp32(x), dw);
  } else if (accumulation_) {
    const Turned a(fp32(dy), shape.m, shape.n, rounded.dy);
    const Turned b(fp32(x), shape.m, shape.k, rounded.x);
    kernels::fp8_product(shape.m, a.operand(), b.operand(), *accumulation_, true, dw);
  } else {
    const Tensor a = along_tokens(dy, rounded.dy, pool_);
    const Tensor b = along_tokens(x, rounded.x, pool_);
    kernels::matmul_grad_weight(shape, a.data(), b.data(), dw);
  }
}

Tensor CpuCompute::product(const ConstArray& x,
                           const ConstArray& w,
                           const Encoding& type,
                           const ConstArray& addend) const {
  Tensor y = wide(x.extent.rows, w.extent.rows);
  multiply(x, w, y.data());
  if (addend.data != nullptr) kernels::add(y.size(), y.data(), fp32(addend), y.data());
  return in_type(std::move(y), type);
}

Tensor CpuCompute::product_input(const ConstArray& dy, const ConstArray& w) const {
  Tensor dx = wide(dy.extent.rows, w.extent.columns);
  multiply_input(dy, w, Store::kOverwrite, dx.data());
  return dx;
}

Tensor CpuCompute::add_product_input(const ConstArray& dy, const ConstArray& w, Tensor dx) const {
  dx = in_type(std::move(dx), DType::kFp32);
  multiply_input(dy, w, Store::kAccumulate, dx.data());
  return dx;
}

void CpuCompute::product_weight(const ConstArray& dy,
                                const ConstArray& x,
                                const AlongTokens& rounded,
                                const Array& dw) const {
  multiply_weight(dy, x, rounded, dw.fp32());
}

Tensor CpuCompute::grouped_product(const ConstArray& x,
                                   std::span<const ConstArray> w,
                                   const ExpertRows& rows,
                                   const Encoding& type) const {
  Tensor y = wide(x.extent.rows, w.front().extent.rows);
  int64_t first = 0;
  for (size_t e = 0; e < w.size(); ++e) {
    const int64_t count = rows.expert_rows.int32()[e];
    multiply(rows_of(x, first, count), w[e], y.data() + first * y.columns());
    first += count;
  }
  return in_type(std::move(y), type, &rows);
}

Tensor CpuCompute::grouped_product_input(const ConstArray& dy,
                                         std::span<const ConstArray> w,
                                         const ExpertRows& rows,
                                         const Encoding& type) const {
  Tensor dx = wide(dy.extent.rows, w.front().extent.columns);
  int64_t first = 0;
  for (size_t e = 0; e < w.size(); ++e) {
    const int64_t count = rows.expert_rows.int32()[e];
    multiply_input(
        rows_of(dy, first, count), w[e], Store::kOverwrite, dx.data() + first * dx.columns());
    first += count;
  }
  return in_type(std::move(dx), type, &rows);
}

void CpuCompute::grouped_product_weight(const ConstArray& dy,
                                        const ConstArray& x,
                                        const AlongTokens& rounded,
                                        const ExpertRows& rows,
                                        std::span<const Array> dw) const {
  int64_t first = 0;
  for (size_t e = 0; e < dw.size(); ++e) {
    const int64_t count = rows.expert_rows.int32()[e];
    multiply_weight(rows_of(dy, first, count), rows_of(x, first, count), rounded, dw[e].fp32());
    first += count;
  }
}

}  // namespace rehearse
