#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>

#include "kernels/cublaslt/dense.h"
#include "kernels/ptx/gpu/launch.cuh"

#ifdef REHEARSE_CUBLASLT
#include "kernels/cublaslt/library.h"
#endif

namespace rehearse::kernels::gpu {
#ifdef REHEARSE_CUBLASLT
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;  // bytes per stream; what cuBLAS asks for on Hopper

const void* pointer_of(const ConstValues& v) {
  return v.fp32 != nullptr ? static_cast<const void*>(v.fp32) : v.bf16;
}
cudaDataType_t type_of(const ConstValues& v) {
  return v.bf16 != nullptr ? CUDA_R_16BF : CUDA_R_32F;
}

// Which algorithms there are hangs on it: what buffers of a pool have is enough.
uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  uint32_t alignment = 16;
  while (address % alignment != 0) alignment /= 2;
  return alignment;
}

// A matrix of (row, k) as one in columns, or its transpose: how far apart columns are.
struct Side {
  bool k_first;  // neighbours in memory are neighbours in k
  int64_t stride;
};
bool has_k_first(const GpuOperand& o, int64_t k) {
  return o.k_stride == 1 && o.row_stride >= k;
}
bool contiguous(const GpuOperand& o, int64_t rows, int64_t k) {
  return has_k_first(o, k) || (o.row_stride == 1 && o.k_stride >= rows);
}
Side side_of(const GpuOperand& o, int64_t k) {
  const bool k_first = has_k_first(o, k);
  return {k_first, k_first ? o.row_stride : o.k_stride};
}

// d, in columns [n, m], = left [n, k] right [k, m] (+ c): left is b, right is a.
struct Product {
  explicit Product(const GpuProduct& p) {
    const Side left = side_of(p.b, p.k), right = side_of(p.a, p.k);
    const cudaDataType_t in = type_of(p.a.values), out = type_of(p.c);
    REHEARSE_BLAS(cublaslt().cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t turn_left = left.k_first ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t turn_right = right.k_first ? CUBLAS_OP_N : CUBLAS_OP_T;
    REHEARSE_BLAS(cublaslt().cublasLtMatmulDescSetAttribute(
        desc, CUBLASLT_MATMUL_DESC_TRANSA, &turn_left, sizeof(turn_left)));
    REHEARSE_BLAS(cublaslt().cublasLtMatmulDescSetAttribute(
        desc, CUBLASLT_MATMUL_DESC_TRANSB, &turn_right, sizeof(turn_right)));
    const auto layout = [](cudaDataType_t type, int64_t rows, int64_t columns, int64_t stride) {
      cublasLtMatrixLayout_t made = nullptr;
      REHEARSE_BLAS(cublaslt().cublasLtMatrixLayoutCreate(
          &made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride));
      return made;
    };
    a = left.k_first ? layout(in, p.k, p.n, left.stride) : layout(in, p.n, p.k, left.stride);
    b = right.k_first ? layout(in, p.k, p.m, right.stride) : layout(in, p.m, p.k, right.stride);
    d = layout(out, p.n, p.m, p.n);
  }
  ~Product() {
    if (d != nullptr) cublaslt().cublasLtMatrixLayoutDestroy(d);
    if (b != nullptr) cublaslt().cublasLtMatrixLayoutDestroy(b);
    if (a != nullptr) cublaslt().cublasLtMatrixLayoutDestroy(a);
    if (desc != nullptr) cublaslt().cublasLtMatmulDescDestroy(desc);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

struct Library {
  Library() {
    if (cublaslt().handle != nullptr) REHEARSE_BLAS(cublaslt().cublasLtCreate(&handle));
  }
  // All that the choice of an algorithm may hang on.
  using Key = std::array<int64_t, 12>;
  static Key key_of(const GpuProduct& p) {
    const Side left = side_of(p.b, p.k), right = side_of(p.a, p.k);
    return {p.m,
            p.n,
            p.k,
            left.k_first,
            left.stride,
            right.k_first,
            right.stride,
            type_of(p.a.values),
            type_of(p.c),
            alignment_of(pointer_of(p.b.values)),
            alignment_of(pointer_of(p.a.values)),
            alignment_of(pointer_of(p.c))};
  }

  // Null where the library has no algorithm for it.
  Product* product_of(const GpuProduct& p) {
    const auto [found, added] = products.try_emplace(key_of(p));
    if (added) found->second = choose(p);
    return found->second.get();
  }
  std::unique_ptr<Product> choose(const GpuProduct& p) {
    auto made = std::make_unique<Product>(p);
    cublasLtMatmulPreference_t preference = nullptr;
    REHEARSE_BLAS(cublaslt().cublasLtMatmulPreferenceCreate(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      REHEARSE_BLAS(cublaslt().cublasLtMatmulPreferenceSetAttribute(
          preference, attribute, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(pointer_of(p.b.values)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(pointer_of(p.a.values)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(pointer_of(p.c)));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(pointer_of(p.c)));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status = cublaslt().cublasLtMatmulAlgoGetHeuristic(
        handle, made->desc, made->a, made->b, made->d, made->d, preference, 1, &best, &found);
    cublaslt().cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0) return nullptr;
    made->algorithm = best.algo;
    return made;
  }

  // Null where the card has no more.
  void* workspace_of(Stream stream) {
    void*& memory = workspaces[stream.handle];
    if (memory != nullptr) return memory;
    const cudaError_t error = cudaMalloc(&memory, kWorkspace);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // or the next launch reports it
      return memory = nullptr;
    }
    check_cuda(error, "cudaMalloc", __FILE__, __LINE__);
    return memory;
  }

  cublasLtHandle_t handle = nullptr;
  std::map<Key, std::unique_ptr<Product>> products;
  std::map<void*, void*> workspaces;  // by stream: two may be at work at once
};

// Never taken down: a card may be gone before.
Library& library() {
  static auto* const made = new Library();
  return *made;
}

bool is_taken(const GpuProduct& p) {
  if (library().handle == nullptr || p.m == 0 || p.n == 0 || p.k == 0) return false;
  const bool of_experts = p.counts.rows != nullptr || p.c_of != nullptr || p.b_fp32_of != nullptr ||
                          p.b_bf16_of != nullptr;
  if (of_experts || !contiguous(p.a, p.m, p.k) || !contiguous(p.b, p.n, p.k)) return false;
  if (type_of(p.a.values) != type_of(p.b.values)) return false;
  if (p.c.bf16 != nullptr && (p.a.values.bf16 == nullptr || p.add)) return false;
  const void* const addend = pointer_of(p.addend);
  if (addend == nullptr) return true;
  return !p.add && type_of(p.addend) == type_of(p.c) &&
         alignment_of(addend) >= alignment_of(pointer_of(p.c));
}

}  // namespace

bool library_takes(const GpuProduct& p) {
  return is_taken(p) && library().product_of(p) != nullptr;
}

void dense_product(const GpuProduct& p, Stream stream) {
  if (!library_takes(p)) return product(p, stream);
  void* const workspace = library().workspace_of(stream);
  if (workspace == nullptr) return product(p, stream);
  const Product& chosen = *library().product_of(p);
  void* const out = p.c.fp32 != nullptr ? static_cast<void*>(p.c.fp32) : p.c.bf16;
  const void* const addend = pointer_of(p.addend);
  const float alpha = 1;
  const float beta = p.add || addend != nullptr ? 1 : 0;
  REHEARSE_BLAS(cublaslt().cublasLtMatmul(library().handle,
                                          chosen.desc,
                                          &alpha,
                                          pointer_of(p.b.values),
                                          chosen.a,
                                          pointer_of(p.a.values),
                                          chosen.b,
                                          &beta,
                                          addend != nullptr ? addend : out,
                                          chosen.d,
                                          out,
                                          chosen.d,
                                          &chosen.algorithm,
                                          workspace,
                                          kWorkspace,
                                          static_cast<cudaStream_t>(stream.handle)));
}

#else
bool library_takes(const GpuProduct&) {
  return false;
}
void dense_product(const GpuProduct& p, Stream stream) {
  product(p, stream);
}
#endif

}  // namespace rehearse::kernels::gpu
