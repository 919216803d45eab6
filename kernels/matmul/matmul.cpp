#include "kernels/matmul/matmul.h"

#include <cstdlib>
#include <string_view>

#include <Eigen/Core>
#include <cblas.h>
#include <unistd.h>

namespace rehearse::kernels {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using In = Eigen::Map<const Matrix>;
using Out = Eigen::Map<Matrix>;

// Every rank's lane multiplies on its own thread; OpenBLAS must not start more behind them.
[[maybe_unused]] const bool kOneThread = [] {
  openblas_set_num_threads(1);
  return true;
}();

constexpr std::string_view kSlowest = "Prescott";

bool can_be_faster() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx2 && std::getenv("OPENBLAS_CORETYPE") == nullptr && openblas_get_corename() == kSlowest;
}

}  // namespace

void restart_for_fast_matmul(char** argv) {
  if (!can_be_faster()) return;
  ::setenv("OPENBLAS_CORETYPE", "HASWELL", 1);
  ::execv("/proc/self/exe", argv);  // returns only where it fails; then slower
}

std::string matmul_library() {
  std::string config = openblas_get_config();
  const size_t core = config.find(kSlowest);
  if (can_be_faster() && core != std::string::npos) {
    config.replace(core, kSlowest.size(), "Haswell");  // what multiplies once it is asked to
  }
  return config;
}

void matmul(const MatmulShape& s, const float* x, const float* w, float* y) {
  if (s.m == 0) return;
  Out(y, s.m, s.n).noalias() = In(x, s.m, s.k) * In(w, s.n, s.k).transpose();
}

void matmul_grad_input(
    const MatmulShape& s, const float* dy, const float* w, float* dx, Store store) {
  if (s.m == 0) return;
  Out out(dx, s.m, s.k);
  if (store == Store::kAccumulate) {
    out.noalias() += In(dy, s.m, s.n) * In(w, s.n, s.k);
  } else {
    out.noalias() = In(dy, s.m, s.n) * In(w, s.n, s.k);
  }
}

void matmul_grad_weight(const MatmulShape& s, const float* dy, const float* x, float* dw) {
  if (s.m == 0) return;
  Out(dw, s.n, s.k).noalias() += In(dy, s.m, s.n).transpose() * In(x, s.m, s.k);
}

}  // namespace rehearse::kernels
