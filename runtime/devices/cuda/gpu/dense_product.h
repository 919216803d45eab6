#pragma once
// Dense products by a library that a machine may have (cuBLASLt), beside the plain kernel.

#include "kernels/layer_gpu/product.h"

namespace rehearse {

class DenseProduct {
 public:
  virtual ~DenseProduct() = default;
  // Whether it does such a product: deterministically, in FP32 without TF32 or in BF16 with FP32
  // sums.
  virtual bool takes(const kernels::GpuProduct& p) const = 0;
  // As kernels::product. Throws std::runtime_error for what the library says.
  virtual void run(const kernels::GpuProduct& p, kernels::Stream stream) = 0;
};

}  // namespace rehearse
