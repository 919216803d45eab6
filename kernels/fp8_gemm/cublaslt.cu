#include <memory>
#include <stdexcept>
#include <string>

#ifdef REHEARSE_CUBLASLT
#include "kernels/cublaslt/library.h"
#endif

#include "kernels/fp8_gemm/cublaslt.h"
#include "kernels/ptx/gpu/launch.cuh"

namespace rehearse::kernels::gpu {
#ifdef REHEARSE_CUBLASLT
namespace {

constexpr size_t kWorkspace = 64 << 20;

}  // namespace

// d[rows of left, rows of right] column-major = left right^T (+ d), both with k contiguous:
// row-major that is d[right, left].
struct CublasLtProduct::Plan {
  struct Side {
    const void* codes;
    const float* scales;
    cublasLtMatmulMatrixScale_t mode;
    int64_t rows;
  };

  Plan(const Side& left, const Side& right, int64_t k, void* d, cudaDataType_t type, float add)
      : a(left.codes), b(right.codes), out(d), beta(add) {
    REHEARSE_BLAS(cublaslt().cublasLtCreate(&handle));
    REHEARSE_BLAS(cublaslt().cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, static_cast<int32_t>(left.mode));
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, static_cast<int32_t>(right.mode));
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, left.scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, right.scales);
    REHEARSE_BLAS(cublaslt().cublasLtMatrixLayoutCreate(
        &a_layout, CUDA_R_8F_E4M3, static_cast<uint64_t>(k), static_cast<uint64_t>(left.rows), k));
    REHEARSE_BLAS(cublaslt().cublasLtMatrixLayoutCreate(
        &b_layout, CUDA_R_8F_E4M3, static_cast<uint64_t>(k), static_cast<uint64_t>(right.rows), k));
    REHEARSE_BLAS(cublaslt().cublasLtMatrixLayoutCreate(&d_layout,
                                                        type,
                                                        static_cast<uint64_t>(left.rows),
                                                        static_cast<uint64_t>(right.rows),
                                                        left.rows));
    REHEARSE_BLAS(cublaslt().cublasLtMatmulPreferenceCreate(&preference));
    const size_t bytes = kWorkspace;
    REHEARSE_BLAS(cublaslt().cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes)));
    int found = 0;
    const cublasStatus_t status = cublaslt().cublasLtMatmulAlgoGetHeuristic(
        handle, desc, a_layout, b_layout, d_layout, d_layout, preference, 1, &algorithm, &found);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
      throw NoAlgorithm("cuBLASLt has no algorithm for this product (status " +
                        std::to_string(status) + ")");
    }
    REHEARSE_CUDA(cudaMalloc(&workspace, kWorkspace));
  }

  ~Plan() {
    cudaFree(workspace);
    cublaslt().cublasLtMatmulPreferenceDestroy(preference);
    cublaslt().cublasLtMatrixLayoutDestroy(d_layout);
    cublaslt().cublasLtMatrixLayoutDestroy(b_layout);
    cublaslt().cublasLtMatrixLayoutDestroy(a_layout);
    cublaslt().cublasLtMatmulDescDestroy(desc);
    cublaslt().cublasLtDestroy(handle);
  }

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    REHEARSE_BLAS(
        cublaslt().cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(value)));
  }

  void run(cudaStream_t stream) {
    const float alpha = 1;
    REHEARSE_BLAS(cublaslt().cublasLtMatmul(handle,
                                            desc,
                                            &alpha,
                                            a,
                                            a_layout,
                                            b,
                                            b_layout,
                                            &beta,
                                            out,
                                            d_layout,
                                            out,
                                            d_layout,
                                            &algorithm.algo,
                                            workspace,
                                            kWorkspace,
                                            stream));
  }

  const void* a;
  const void* b;
  void* out;
  float beta;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a_layout = nullptr, b_layout = nullptr, d_layout = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtMatmulHeuristicResult_t algorithm{};
  void* workspace = nullptr;
};

bool cublaslt_does(const Fp8Product& p) {
  return cublaslt().handle && !p.rows && p.m % 4 == 0 && p.n % 4 == 0 && p.k % 512 == 0 &&
         p.x_scale_stride == p.m;
}

bool cublaslt_does(const Fp8WeightGradient& p) {
  return cublaslt().handle && !p.rows && p.m % 4 == 0 && p.n % 4 == 0 && p.tokens % 128 == 0 &&
         p.dy_scale_stride == p.m && p.x_scale_stride == p.n;
}

CublasLtProduct::CublasLtProduct(const Fp8Product& p)
    : plan_(std::make_unique<Plan>(
          Plan::Side{p.w, p.w_scales, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, p.n},
          Plan::Side{p.x, p.x_scales, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, p.m},
          p.k,
          p.y,
          CUDA_R_16BF,
          0)) {}

CublasLtProduct::CublasLtProduct(const Fp8WeightGradient& p)
    : plan_(std::make_unique<Plan>(
          Plan::Side{p.x, p.x_scales, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, p.n},
          Plan::Side{p.dy, p.dy_scales, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, p.m},
          p.tokens,
          p.dw,
          CUDA_R_32F,
          1)) {}

void CublasLtProduct::run(Stream stream) {
  plan_->run(static_cast<cudaStream_t>(stream.handle));
}

std::string cublaslt_version() {
  if (!cublaslt().handle) return "";
  const size_t v = cublaslt().cublasLtGetVersion();
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." +
         std::to_string(v % 100);
}

#else
struct CublasLtProduct::Plan {};
bool cublaslt_does(const Fp8Product&) {
  return false;
}
bool cublaslt_does(const Fp8WeightGradient&) {
  return false;
}
CublasLtProduct::CublasLtProduct(const Fp8Product&) {
  throw NoAlgorithm("built without cuBLASLt");
}
CublasLtProduct::CublasLtProduct(const Fp8WeightGradient&) {
  throw NoAlgorithm("built without cuBLASLt");
}
void CublasLtProduct::run(Stream) {}
std::string cublaslt_version() {
  return "";
}
#endif

CublasLtProduct::~CublasLtProduct() = default;
CublasLtProduct::CublasLtProduct(CublasLtProduct&&) noexcept = default;
CublasLtProduct& CublasLtProduct::operator=(CublasLtProduct&&) noexcept = default;

}  // namespace rehearse::kernels::gpu
