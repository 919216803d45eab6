#pragma once
// cuBLASLt's functions, loaded when first asked for. For sources that have its header alone.

#include <stdexcept>
#include <string>

#include <cublasLt.h>

namespace rehearse::kernels::gpu {

struct CublasLtLibrary {
  void* handle = nullptr;  // null: not found, and no function is there
#define REHEARSE_BLAS_FUNCTIONS(F)        \
  F(cublasLtCreate)                       \
  F(cublasLtDestroy)                      \
  F(cublasLtGetVersion)                   \
  F(cublasLtMatmul)                       \
  F(cublasLtMatmulAlgoGetHeuristic)       \
  F(cublasLtMatmulDescCreate)             \
  F(cublasLtMatmulDescDestroy)            \
  F(cublasLtMatmulDescSetAttribute)       \
  F(cublasLtMatmulPreferenceCreate)       \
  F(cublasLtMatmulPreferenceDestroy)      \
  F(cublasLtMatmulPreferenceSetAttribute) \
  F(cublasLtMatrixLayoutCreate)           \
  F(cublasLtMatrixLayoutDestroy)
#define REHEARSE_DECLARE(f) decltype(&::f) f = nullptr;
  REHEARSE_BLAS_FUNCTIONS(REHEARSE_DECLARE)
#undef REHEARSE_DECLARE
};

// The file that the environment's REHEARSE_CUBLASLT names, or where find_library finds one.
const CublasLtLibrary& cublaslt();

inline void check_blas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw std::runtime_error(std::string(what) + ": cuBLAS status " + std::to_string(status));
  }
}
#define REHEARSE_BLAS(call) ::rehearse::kernels::gpu::check_blas(call, #call)

}  // namespace rehearse::kernels::gpu
