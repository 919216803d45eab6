#pragma once
// Dense matrix products of linear layers, row-major, single-threaded: FP32, or with weights in BF16
// or FP8, which are widened panel by panel. Sums are FP32.

#include <cstdint>
#include <string>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

struct MatmulShape {
  int64_t m = 0;  // rows of x: tokens
  int64_t n = 0;  // output features
  int64_t k = 0;  // input features
};

// A weight matrix, [n, k]: one of the three.
struct WeightMatrix {
  WeightMatrix(const float* w) : fp32(w) {}
  WeightMatrix(const Bf16* w) : bf16(w) {}
  // E4M3 with a scale per block of 128 x 128 (kernels/quantize/).
  WeightMatrix(const uint8_t* w, const float* s) : codes(w), scales(s) {}
  const float* fp32 = nullptr;
  const Bf16* bf16 = nullptr;
  const uint8_t* codes = nullptr;
  const float* scales = nullptr;
};

// y = x w^T.  x: [m, k], w: [n, k], y: [m, n].
void matmul(const MatmulShape& s, const float* x, WeightMatrix w, float* y);

enum class Store : uint8_t { kOverwrite, kAccumulate };

// dx = dy w, or dx += dy w.  dy: [m, n], w: [n, k], dx: [m, k].
void matmul_grad_input(
    const MatmulShape& s, const float* dy, WeightMatrix w, float* dx, Store store);

// dw += dy^T x.  dy: [m, n], x: [m, k], dw: [n, k]. Nothing happens when m is 0.
void matmul_grad_weight(const MatmulShape& s, const float* dy, const float* x, float* dw);

// Plain references: double inputs, double sums.
void matmul_reference(const MatmulShape& s, const double* x, const double* w, double* y);

// An OpenBLAS that is older than the processor takes it for one of 2004 (its core "Prescott", SSE3)
// and multiplies several times slower than it could: starts this program anew, told to use AVX2.
// Returns where there is nothing to gain, or OPENBLAS_CORETYPE is set. argv: main's.
void restart_for_fast_matmul(char** argv);

// Name of the library that multiplies, and of its core, for calibrations and logs; keeps it to one
// thread per caller.
std::string matmul_library();

}  // namespace rehearse::kernels
