#pragma once
// cuBLASLt's block-scaled FP8 products: the dense alternative to ours, and an oracle.

#include <memory>
#include <stdexcept>
#include <string>

#include "kernels/fp8_gemm/fp8_gemm.h"

namespace rehearse::kernels::gpu {

// The library's name and version, or nothing where it was not built in or is not to be found.
std::string cublaslt_version();

// Products that it turns out not to do are skipped.
class NoAlgorithm : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Whether it does this product: dense, m and n multiples of 4, k of 512 (it pads rows of w_scales
// to multiples of 4, ours have no gaps), x_scale_stride == m.
bool cublaslt_does(const Fp8Product& p);
bool cublaslt_does(const Fp8WeightGradient& p);

// One per problem: it holds the chosen algorithm and its workspace.
class CublasLtProduct {
 public:
  // 1x128 by 128x128, to BF16. Throws NoAlgorithm where cuBLASLt has none for it.
  explicit CublasLtProduct(const Fp8Product& p);
  // 1x128 by 1x128, added to FP32.
  explicit CublasLtProduct(const Fp8WeightGradient& p);
  ~CublasLtProduct();
  CublasLtProduct(CublasLtProduct&&) noexcept;
  CublasLtProduct& operator=(CublasLtProduct&&) noexcept;

  void run(Stream stream);

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace rehearse::kernels::gpu
