#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <Eigen/Core>
#include <cblas.h>
#include <unistd.h>

#include "kernels/convert/convert.h"
#include "kernels/quantize/quantize.h"

namespace rehearse::kernels {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using In = Eigen::Map<const Matrix>;
using Out = Eigen::Map<Matrix>;
// Some columns of a matrix.
using InPart = Eigen::Map<const Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;
using OutPart = Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>>;

// Every rank's lane multiplies on its own thread; OpenBLAS must not start more behind them.
[[maybe_unused]] const bool kOneThread = [] {
  openblas_set_num_threads(1);
  return true;
}();

// Calls work(panel, first, rows) for whole rows of `w` that a cache holds beside the operands.
template <typename Work>
void for_each_panel(const MatmulShape& s, const WeightMatrix& w, Work work) {
  constexpr int64_t kPanel = int64_t{1} << 18;  // elements: 1 MiB
  thread_local std::vector<float> panel;
  const int64_t most = std::clamp<int64_t>(kPanel / std::max<int64_t>(1, s.k), 1, s.n);
  if (const auto need = static_cast<size_t>(most * s.k); panel.size() < need) panel.resize(need);
  for (int64_t first = 0; first < s.n; first += most) {
    const int64_t rows = std::min(most, s.n - first);
    if (w.codes != nullptr) {
      dequantize_blocks(first, rows, s.k, w.codes, w.scales, panel.data());
    } else {
      convert(rows * s.k, w.bf16 + first * s.k, panel.data());
    }
    work(panel.data(), first, rows);
  }
}

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

void matmul(const MatmulShape& s, const float* x, WeightMatrix w, float* y) {
  if (s.m == 0) return;
  const In in(x, s.m, s.k);
  if (w.fp32 != nullptr) {
    Out(y, s.m, s.n).noalias() = in * In(w.fp32, s.n, s.k).transpose();
    return;
  }
  for_each_panel(s, w, [&](const float* panel, int64_t first, int64_t rows) {
    OutPart out(y + first, s.m, rows, Eigen::OuterStride<>(s.n));
    out.noalias() = in * In(panel, rows, s.k).transpose();
  });
}

void matmul_grad_input(
    const MatmulShape& s, const float* dy, WeightMatrix w, float* dx, Store store) {
  if (s.m == 0) return;
  Out out(dx, s.m, s.k);
  const auto product = [&](const auto& in, const In& weights, bool add) {
    if (add) {
      out.noalias() += in * weights;
    } else {
      out.noalias() = in * weights;
    }
  };
  const bool add = store == Store::kAccumulate;
  if (w.fp32 != nullptr) return product(In(dy, s.m, s.n), In(w.fp32, s.n, s.k), add);
  for_each_panel(s, w, [&](const float* panel, int64_t first, int64_t rows) {
    const InPart in(dy + first, s.m, rows, Eigen::OuterStride<>(s.n));
    product(in, In(panel, rows, s.k), add || first > 0);
  });
}

void matmul_grad_weight(const MatmulShape& s, const float* dy, const float* x, float* dw) {
  if (s.m == 0) return;
  Out(dw, s.n, s.k).noalias() += In(dy, s.m, s.n).transpose() * In(x, s.m, s.k);
}

}  // namespace rehearse::kernels
