#pragma once
// Arrays as a layer's kernels are given them.

#include "runtime/devices/cuda/gpu_compute.h"

namespace rehearse {

using kernels::ConstValues;
using kernels::Values;

inline ConstValues on_card(const ConstArray& x) {
  if (x.data == nullptr) return {};
  return x.extent.type == DType::kBf16 ? ConstValues(x.bf16()) : ConstValues(x.fp32());
}
inline Values on_card(const Array& x) {
  if (x.data == nullptr) return {};
  return x.extent.type == DType::kBf16 ? Values(x.bf16()) : Values(x.fp32());
}
inline Values on_card(Tensor& x) {
  return on_card(x.array());
}

// From an element on.
inline ConstValues behind(const ConstValues& v, int64_t elements) {
  if (v.bf16 != nullptr) return v.bf16 + elements;
  return v.fp32 == nullptr ? v : ConstValues(v.fp32 + elements);
}

inline kernels::RowCounts counts_of(const ExpertRows& rows) {
  return {rows.expert_rows.int32(), static_cast<int>(rows.expert_rows.extent.size())};
}
inline kernels::RowCounts counts_of(const Compute::Weighted* rows) {
  return rows == nullptr ? kernels::RowCounts() : counts_of(rows->rows);
}
inline const float* given_weights(const Compute::Weighted* rows) {
  return rows == nullptr ? nullptr : rows->weights.fp32();
}

}  // namespace rehearse
