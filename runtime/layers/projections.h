#pragma once
// How queries, keys and values follow from a layer's normed input, and how gradients go back: by
// MLA's compressions (latent.cpp), or in one product for grouped heads (grouped.cpp).

#include "runtime/layers/activations.h"

namespace rehearse {

// Where each norm's gain gradient stands in d_gains.
struct GainOffsets {
  explicit GainOffsets(const Architecture& m);
  int64_t input = 0;
  int64_t query, key;  // of the compressions, or of heads
  int64_t post, size;
};

// The norm of x by the gain, into y, as a product takes it, and inverse.
void norm(const LayerContext& c,
          const LayerWeights& w,
          ParameterId gain,
          const Tensor& x,
          Tensor& y,
          Tensor& inverse);

// x_norm -> q, kv and, of MLA, kv_a.
void latent_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// What of these was not kept; x_norm is there.
void latent_again(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// d_q, d_kv, d_kv_a -> returns d_x_norm, [T, D].
Tensor latent_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
void latent_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a);

void grouped_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// d_q, d_kv -> returns d_x_norm.
Tensor grouped_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
void grouped_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a);

// The gradient of a gain, of `count` values from `offset` on: within backward, and added to the
// gradients.
Array gain_gradient(LayerActivations& a, int64_t offset, int64_t count);
void add_gain(const LayerContext& c,
              const LayerWeights& w,
              LayerActivations& a,
              ParameterId gain,
              int64_t offset);

}  // namespace rehearse
