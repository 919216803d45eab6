#pragma once
// Dense products of FP32 (without TF32) and BF16 by cuBLASLt, deterministic: parts of a contraction
// are never added in the order of their arrival. The plain kernel does what it does not take, and
// all where it is not found.

#include <string>

#include "kernels/layer_gpu/product.h"

namespace rehearse::kernels::gpu {

// As product, of matrices: no experts. An algorithm is chosen once per shape. One thread at a time.
// Throws std::runtime_error for what the library or CUDA says.
void dense_product(const GpuProduct& p, Stream stream);

// Whether the library did such a product, or would: it is there, both operands are of one type and
// contiguous along one of their directions, the result and what is added to it are FP32, or BF16 as
// they, and it has an algorithm.
bool library_takes(const GpuProduct& p);

}  // namespace rehearse::kernels::gpu
