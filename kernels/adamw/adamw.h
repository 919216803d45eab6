#pragma once
// AdamW with decoupled weight decay (Loshchilov & Hutter 2019), and the norm that clips it.

#include <cstdint>

namespace rehearse::kernels {

struct AdamWSettings {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  double gradient_scale = 1;  // clipping's factor on the gradient
  int64_t step = 1;           // from 1, for bias correction
};

// weights, m, v: [elements], updated; gradient: [elements].
void adamw(const AdamWSettings& s,
           int64_t elements,
           const float* gradient,
           float* weights,
           float* m,
           float* v);

void adamw_reference(const AdamWSettings& s,
                     int64_t elements,
                     const double* gradient,
                     double* weights,
                     double* m,
                     double* v);

// Sum of squares in double, in blocks of fixed size, so that it does not depend on vector width.
double square_sum(int64_t elements, const float* x);

}  // namespace rehearse::kernels
