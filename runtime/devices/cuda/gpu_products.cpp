// A card's products of matrices, dense and of experts.

#include "runtime/devices/cuda/gpu_values.h"

namespace rehearse {

Tensor GpuCompute::product(const ConstArray& x,
                           const ConstArray& w,
                           const Encoding& type,
                           const ConstArray& addend) const {
  const int64_t k = w.extent.columns;
  const Readable from = readable(x), by = readable(w), more = readable(addend);
  Tensor y = written(x.extent.rows, w.extent.rows, type);
  start(k_.dense_product,
        {.a = {on_card(from), k, 1},
         .b = {on_card(by), k, 1},
         .m = y.rows(),
         .n = y.columns(),
         .k = k,
         .c = on_card(y),
         .addend = on_card(more)});
  return in_type(std::move(y), type);
}

Tensor GpuCompute::product_input(const ConstArray& dy, const ConstArray& w) const {
  const Readable from = readable(dy), by = readable(w);
  Tensor dx = wide(dy.extent.rows, w.extent.columns);
  start(k_.dense_product,
        {.a = {on_card(from), w.extent.rows, 1},
         .b = {on_card(by), 1, w.extent.columns},
         .m = dx.rows(),
         .n = dx.columns(),
         .k = w.extent.rows,
         .c = on_card(dx)});
  return dx;
}

Tensor GpuCompute::add_product_input(const ConstArray& dy, const ConstArray& w, Tensor dx) const {
  dx = in_type(std::move(dx), DType::kFp32);
  const Readable from = readable(dy), by = readable(w);
  start(k_.dense_product,
        {.a = {on_card(from), w.extent.rows, 1},
         .b = {on_card(by), 1, w.extent.columns},
         .m = dx.rows(),
         .n = dx.columns(),
         .k = w.extent.rows,
         .c = on_card(dx),
         .add = true});
  return dx;
}

void GpuCompute::product_weight(const ConstArray& dy,
                                const ConstArray& x,
                                const AlongTokens& rounded,
                                const Array& dw) const {
  const int64_t n = dy.extent.columns;
  const int64_t k = x.extent.columns;
  const Readable left = along_tokens(dy, rounded.fp8, rounded.dy, nullptr),
                 right = along_tokens(x, rounded.fp8, rounded.x, nullptr);
  start(k_.dense_product,
        {.a = {on_card(left), 1, n},
         .b = {on_card(right), 1, k},
         .m = n,
         .n = k,
         .k = dy.extent.rows,
         .c = on_card(dw),
         .add = true});
}

Tensor GpuCompute::grouped_product(const ConstArray& x,
                                   std::span<const ConstArray> w,
                                   const ExpertRows& rows,
                                   const Encoding& type) const {
  const Extent& of = w.front().extent;
  Tensor y = written(x.extent.rows, of.rows, type);
  const Readable from = readable(x, &rows);
  const Matrices by = matrices(w);
  start(
      k_.product,
      {.a = {on_card(from), of.columns, 1},
       .b = {{}, of.columns, 1},
       .m = y.rows(),
       .n = of.rows,
       .k = of.columns,
       .c = on_card(y),
       .counts = counts_of(rows),
       .b_fp32_of = by.narrow ? nullptr : static_cast<const float* const*>(by.pointers()),
       .b_bf16_of = by.narrow ? static_cast<const kernels::Bf16* const*>(by.pointers()) : nullptr});
  return in_type(std::move(y), type, &rows);
}

Tensor GpuCompute::grouped_product_input(const ConstArray& dy,
                                         std::span<const ConstArray> w,
                                         const ExpertRows& rows,
                                         const Encoding& type) const {
  const Extent& of = w.front().extent;
  Tensor dx = written(dy.extent.rows, of.columns, type);
  const Readable from = readable(dy, &rows);
  const Matrices by = matrices(w);
  start(
      k_.product,
      {.a = {on_card(from), of.rows, 1},
       .b = {{}, 1, of.columns},
       .m = dx.rows(),
       .n = of.columns,
       .k = of.rows,
       .c = on_card(dx),
       .counts = counts_of(rows),
       .b_fp32_of = by.narrow ? nullptr : static_cast<const float* const*>(by.pointers()),
       .b_bf16_of = by.narrow ? static_cast<const kernels::Bf16* const*>(by.pointers()) : nullptr});
  return in_type(std::move(dx), type, &rows);
}

void GpuCompute::grouped_product_weight(const ConstArray& dy,
                                        const ConstArray& x,
                                        const AlongTokens& rounded,
                                        const ExpertRows& rows,
                                        std::span<const Array> dw) const {
  const Readable left = along_tokens(dy, rounded.fp8, rounded.dy, &rows),
                 right = along_tokens(x, rounded.fp8, rounded.x, &rows);
  const std::vector<ConstArray> to(dw.begin(), dw.end());
  const Tensor list = pointers(to);
  const int64_t n = dy.extent.columns;
  const int64_t k = x.extent.columns;
  start(k_.product,
        {.a = {on_card(left), 1, n},
         .b = {on_card(right), 1, k},
         .m = n,
         .n = k,
         .k = dy.extent.rows,
         .add = true,
         .counts = counts_of(rows),
         .c_of = static_cast<float* const*>(list.array().data)});
}

}  // namespace rehearse
