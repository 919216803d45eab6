#pragma once
// AdamW with decoupled weight decay (Loshchilov & Hutter 2019), and the norm that clips it.

#include <cstdint>

#include "kernels/formats/formats.h"

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

// weights, m, v: [elements], updated; gradient: [elements]. Moments in BF16 (report, section 3.3.3)
// are computed with before they are rounded. What changes a moment by less than half its last place
// is lost: it stops within 2^-8 / (1 - beta) of what it averages, and where 1 - beta is less
// than 2^-8 it never falls. Plans take betas up to 0.98 with them (plan/legal.cpp).
void adamw(const AdamWSettings& s,
           int64_t elements,
           const float* gradient,
           float* weights,
           float* m,
           float* v);
void adamw(const AdamWSettings& s,
           int64_t elements,
           const float* gradient,
           float* weights,
           Bf16* m,
           Bf16* v);

void adamw_reference(const AdamWSettings& s,
                     int64_t elements,
                     const double* gradient,
                     double* weights,
                     double* m,
                     double* v);

// Sum of squares in double, in blocks of fixed size, so that it does not depend on vector width.
double square_sum(int64_t elements, const float* x);

}  // namespace rehearse::kernels
