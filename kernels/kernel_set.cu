#include "kernels/kernel_set.h"

namespace rehearse::kernels {

KernelSet gpu_kernels() {
  return {gpu::fp8_gemm,
          gpu::fp8_weight_gradient,
          gpu::cast_rows,
          gpu::cast_columns,
          gpu::cast_blocks,
          gpu::rmsnorm,
          gpu::rmsnorm_backward,
          gpu::swiglu,
          gpu::swiglu_backward,
          gpu::rope,
          gpu::cross_entropy,
          gpu::cross_entropy_backward,
          gpu::sum,
          gpu::embedding,
          gpu::embedding_backward,
          gpu::adamw,
          gpu::map_rows,
          gpu::permute,
          gpu::unpermute,
          gpu::gate,
          gpu::gate_backward,
          gpu::product,
          gpu::dense_product,
          gpu::attention,
          gpu::attention_backward,
          gpu::move,
          gpu::of_rows,
          gpu::of_choices,
          gpu::look_up,
          gpu::count,
          gpu::update_bias,
          gpu::weights_of_chosen,
          gpu::count_bad,
          gpu::total,
          gpu::encode,
          gpu::decode,
          gpu::round_columns,
          gpu::destinations,
          gpu::gather,
          gpu::sum_parts,
          gpu::sum_members};
}

}  // namespace rehearse::kernels
