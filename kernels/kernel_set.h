#pragma once
// The GPU kernels as functions to call, so that one program runs them on a card or by imitation.

#include "kernels/cublaslt/dense.h"
#include "kernels/fp8_cast/fp8_cast.h"
#include "kernels/fp8_gemm/fp8_gemm.h"
#include "kernels/layer_gpu/attention.h"
#include "kernels/layer_gpu/codes.h"
#include "kernels/layer_gpu/counts.h"
#include "kernels/layer_gpu/cross_entropy.h"
#include "kernels/layer_gpu/elements.h"
#include "kernels/layer_gpu/exchange.h"
#include "kernels/layer_gpu/experts.h"
#include "kernels/layer_gpu/moves.h"
#include "kernels/layer_gpu/product.h"
#include "kernels/layer_gpu/rmsnorm.h"
#include "kernels/layer_gpu/rope.h"
#include "kernels/layer_gpu/swiglu.h"

namespace rehearse::kernels {

// Null where a set has none of it.
struct KernelSet {
  void (*fp8_gemm)(const Fp8Product&, const TileShape&, Stream) = nullptr;
  void (*fp8_weight_gradient)(const Fp8WeightGradient&, const TileShape&, Stream) = nullptr;
  void (*cast_rows)(const CastRows&, Stream) = nullptr;
  void (*cast_columns)(const CastColumns&, Stream) = nullptr;
  void (*cast_blocks)(const CastBlocks&, Stream) = nullptr;
  void (*rmsnorm)(const GpuRmsNorm&, Stream) = nullptr;
  void (*rmsnorm_backward)(const GpuRmsNormBackward&, Stream) = nullptr;
  void (*swiglu)(const GpuSwiglu&, Stream) = nullptr;
  void (*swiglu_backward)(const GpuSwigluBackward&, Stream) = nullptr;
  void (*rope)(const GpuRope&, Stream) = nullptr;
  void (*cross_entropy)(const GpuCrossEntropy&, Stream) = nullptr;
  void (*cross_entropy_backward)(const GpuCrossEntropyBackward&, Stream) = nullptr;
  void (*sum)(const GpuSum&, Stream) = nullptr;
  void (*embedding)(const GpuEmbedding&, Stream) = nullptr;
  void (*embedding_backward)(const GpuEmbeddingBackward&, Stream) = nullptr;
  void (*adamw)(const GpuAdamW&, Stream) = nullptr;
  void (*map_rows)(const GpuRowMap&, Stream) = nullptr;
  void (*permute)(const GpuPermute&, Stream) = nullptr;
  void (*unpermute)(const GpuUnpermute&, Stream) = nullptr;
  void (*gate)(const GpuGate&, Stream) = nullptr;
  void (*gate_backward)(const GpuGateBackward&, Stream) = nullptr;
  void (*product)(const GpuProduct&, Stream) = nullptr;
  void (*dense_product)(const GpuProduct&, Stream) = nullptr;  // not of experts
  void (*attention)(const GpuAttention&, Stream) = nullptr;
  void (*attention_backward)(const GpuAttentionBackward&, Stream) = nullptr;
  void (*move)(const GpuMove&, Stream) = nullptr;
  void (*of_rows)(const GpuOfRows&, Stream) = nullptr;
  void (*of_choices)(const GpuOfChoices&, Stream) = nullptr;
  void (*look_up)(const GpuLookUp&, Stream) = nullptr;
  void (*count)(const GpuCount&, Stream) = nullptr;
  void (*update_bias)(const GpuUpdateBias&, Stream) = nullptr;
  void (*weights_of_chosen)(const GpuWeightsOfChosen&, Stream) = nullptr;
  void (*count_bad)(const GpuCountBad&, Stream) = nullptr;
  void (*total)(const GpuTotal&, Stream) = nullptr;
  void (*encode)(const GpuEncode&, Stream) = nullptr;
  void (*decode)(const GpuDecode&, Stream) = nullptr;
  void (*round_columns)(const GpuRoundColumns&, Stream) = nullptr;
  void (*destinations)(const GpuDestinations&, Stream) = nullptr;
  void (*gather)(const GpuGather&, Stream) = nullptr;
  void (*sum_parts)(const GpuSumParts&, Stream) = nullptr;
  void (*sum_members)(const GpuSumMembers&, Stream) = nullptr;
};

KernelSet gpu_kernels();       // kernel_set.cu
KernelSet imitated_kernels();  // checking/imitated_target.cpp

}  // namespace rehearse::kernels
