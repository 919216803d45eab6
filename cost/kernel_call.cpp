#include "cost/kernel_call.h"

#include <fmt/format.h>

#include "base/names.h"

namespace rehearse {
namespace {

constexpr NameTable kKernelNames{std::to_array<Named<Kernel>>({
    {Kernel::kMatmul, "matmul"},
    {Kernel::kMatmulGradInput, "matmul_grad_input"},
    {Kernel::kMatmulGradWeight, "matmul_grad_weight"},
    {Kernel::kRmsNorm, "rmsnorm"},
    {Kernel::kRmsNormBackward, "rmsnorm_backward"},
    {Kernel::kRope, "rope"},
    {Kernel::kAttention, "attention"},
    {Kernel::kAttentionBackward, "attention_backward"},
    {Kernel::kSwiglu, "swiglu"},
    {Kernel::kSwigluBackward, "swiglu_backward"},
    {Kernel::kGate, "gate"},
    {Kernel::kGateBackward, "gate_backward"},
    {Kernel::kPermute, "permute"},
    {Kernel::kUnpermute, "unpermute"},
    {Kernel::kAdd, "add"},
    {Kernel::kEmbedding, "embedding"},
    {Kernel::kEmbeddingBackward, "embedding_backward"},
    {Kernel::kCrossEntropy, "cross_entropy"},
    {Kernel::kCrossEntropyBackward, "cross_entropy_backward"},
    {Kernel::kAdamW, "adamw"},
    {Kernel::kReduce, "reduce"},
    {Kernel::kSquareSum, "square_sum"},
    {Kernel::kCopy, "copy"},
    {Kernel::kFill, "fill"},
    {Kernel::kConvert, "convert"},
    {Kernel::kQuantize, "quantize"},
    {Kernel::kDequantize, "dequantize"},
    {Kernel::kRoundColumns, "round_columns"},
    {Kernel::kPackE5m6, "pack_e5m6"},
    {Kernel::kUnpackE5m6, "unpack_e5m6"},
})};
static_assert(kKernelNames.complete());

}  // namespace

std::string_view name_of(Kernel kernel) {
  return kKernelNames[kernel];
}

std::optional<Kernel> kernel_named(std::string_view name) {
  return kKernelNames.find(name);
}

std::vector<Kernel> all_kernels() {
  std::vector<Kernel> list;
  for (const auto& n : kKernelNames.entries()) list.push_back(n.value);
  return list;
}

std::string kernel_list() {
  return kKernelNames.list();
}

std::vector<std::string_view> shape_names(Kernel kernel) {
  switch (kernel) {
    case Kernel::kMatmul:
    case Kernel::kMatmulGradInput:
    case Kernel::kMatmulGradWeight:
      return {"m", "n", "k"};
    case Kernel::kRmsNorm:
    case Kernel::kRmsNormBackward:
    case Kernel::kSwiglu:
    case Kernel::kSwigluBackward:
    case Kernel::kPermute:
    case Kernel::kAdd:
    case Kernel::kRoundColumns:
      return {"rows", "width"};
    case Kernel::kRope:
      return {"rows", "heads", "width"};
    case Kernel::kAttention:
    case Kernel::kAttentionBackward:
      return {"sequences", "length", "heads", "qk", "v"};
    case Kernel::kGate:
    case Kernel::kGateBackward:
      return {"tokens", "experts", "active"};
    case Kernel::kUnpermute:
      return {"tokens", "active", "width"};
    case Kernel::kEmbedding:
    case Kernel::kEmbeddingBackward:
      return {"tokens", "width"};
    case Kernel::kCrossEntropy:
    case Kernel::kCrossEntropyBackward:
      return {"tokens", "vocabulary"};
    case Kernel::kAdamW:
    case Kernel::kSquareSum:
    case Kernel::kCopy:
    case Kernel::kFill:
    case Kernel::kConvert:
    case Kernel::kQuantize:
    case Kernel::kDequantize:
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return {"elements"};
    case Kernel::kReduce:
      return {"elements", "copies"};
  }
  CHECK(false) << "kernel " << static_cast<int>(kernel);
}

bool is_product(Kernel kernel) {
  return kernel == Kernel::kMatmul || kernel == Kernel::kMatmulGradInput ||
         kernel == Kernel::kMatmulGradWeight;
}
bool is_attention(Kernel kernel) {
  return kernel == Kernel::kAttention || kernel == Kernel::kAttentionBackward;
}

std::string to_string(const KernelCall& call) {
  std::string text(name_of(call.kernel));
  const auto names = shape_names(call.kernel);
  for (size_t i = 0; i < names.size(); ++i) {
    text += fmt::format(" {}={}", names[i], call.shape[i]);
  }
  return text;
}

Flops flops(const KernelCall& call) {
  const auto& s = call.shape;
  const auto d = [&](size_t i) { return static_cast<double>(s[i]); };
  switch (call.kernel) {
    case Kernel::kMatmul:
    case Kernel::kMatmulGradInput:
    case Kernel::kMatmulGradWeight:
      return Flops(2 * d(0) * d(1) * d(2));
    case Kernel::kRmsNorm:
      return Flops(4 * d(0) * d(1));
    case Kernel::kRmsNormBackward:
      return Flops(9 * d(0) * d(1));
    case Kernel::kRope:
      return Flops(3 * d(0) * d(1) * d(2));
    case Kernel::kAttention:  // QK^T and PV over the causal half, diagonal included
      return Flops(d(0) * d(2) * d(1) * (d(1) + 1) * (d(3) + d(4)));
    case Kernel::kAttentionBackward:  // QK^T again, dP, dV, dQ, dK
      return Flops(d(0) * d(2) * d(1) * (d(1) + 1) * (3 * d(3) + 2 * d(4)));
    case Kernel::kSwiglu:
      return Flops(6 * d(0) * d(1));
    case Kernel::kSwigluBackward:
      return Flops(14 * d(0) * d(1));
    case Kernel::kGate:
      return Flops(4 * d(0) * d(1) + 3 * d(0) * d(2));
    case Kernel::kGateBackward:
      return Flops(8 * d(0) * d(1));
    case Kernel::kUnpermute:
      return Flops(d(0) * d(1) * d(2));
    case Kernel::kAdd:
    case Kernel::kEmbeddingBackward:
      return Flops(d(0) * d(1));
    case Kernel::kCrossEntropy:
      return Flops(4 * d(0) * d(1));
    case Kernel::kCrossEntropyBackward:
      return Flops(4 * d(0) * d(1));
    case Kernel::kAdamW:
      return Flops(14 * d(0));
    case Kernel::kReduce:
      return Flops(d(0) * (d(1) - 1));
    case Kernel::kSquareSum:
      return Flops(2 * d(0));
    case Kernel::kPermute:
    case Kernel::kEmbedding:
    case Kernel::kCopy:
    case Kernel::kFill:
    case Kernel::kConvert:
    case Kernel::kQuantize:
    case Kernel::kDequantize:
    case Kernel::kRoundColumns:
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return Flops(0);
  }
  CHECK(false) << "kernel " << static_cast<int>(call.kernel);
}

int64_t converted_elements(const KernelCall& call) {
  const auto& s = call.shape;
  switch (call.kernel) {
    case Kernel::kMatmul:
    case Kernel::kMatmulGradInput:
    case Kernel::kAttention:
    case Kernel::kAttentionBackward:
    case Kernel::kRmsNorm:
    case Kernel::kSwiglu:
      return memory_traffic(call, 1).count();
    case Kernel::kMatmulGradWeight:
      return s[0] * (s[1] + s[2]);
    case Kernel::kRmsNormBackward:  // its input and result; what comes in is an op's own
    case Kernel::kAdd:              // one operand and the sum
      return 2 * s[0] * s[1];
    case Kernel::kSwigluBackward:
      return 4 * s[0] * s[1];
    case Kernel::kUnpermute:
      return s[0] * s[2] * (s[1] + 1);
    case Kernel::kEmbeddingBackward:
      return s[0] * s[1];
    case Kernel::kAdamW:  // weights, from their masters
      return s[0];
    case Kernel::kRope:
    case Kernel::kGate:
    case Kernel::kGateBackward:
    case Kernel::kPermute:
    case Kernel::kEmbedding:
    case Kernel::kCrossEntropy:
    case Kernel::kCrossEntropyBackward:
    case Kernel::kReduce:
    case Kernel::kSquareSum:
    case Kernel::kCopy:
    case Kernel::kFill:
    case Kernel::kConvert:
    case Kernel::kQuantize:
    case Kernel::kDequantize:
    case Kernel::kRoundColumns:
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return 0;
  }
  CHECK(false) << "kernel " << static_cast<int>(call.kernel);
}

Bytes memory_traffic(const KernelCall& call, int64_t element) {
  const auto& s = call.shape;
  switch (call.kernel) {
    case Kernel::kMatmul:
    case Kernel::kMatmulGradInput:
      return Bytes((s[0] * s[1] + s[1] * s[2] + s[0] * s[2]) * element);
    case Kernel::kMatmulGradWeight:  // the gradient is read and written
      return Bytes((s[0] * s[1] + 2 * s[1] * s[2] + s[0] * s[2]) * element);
    case Kernel::kRmsNorm:
      return Bytes(2 * s[0] * s[1] * element);
    case Kernel::kRmsNormBackward:
      return Bytes(3 * s[0] * s[1] * element);
    case Kernel::kRope:
      return Bytes(2 * s[0] * s[1] * s[2] * element);
    case Kernel::kAttention:  // q, k, v, output
      return Bytes(s[0] * s[1] * s[2] * (2 * s[3] + 2 * s[4]) * element);
    case Kernel::kAttentionBackward:  // and the output, its gradient, dq, dk, dv
      return Bytes(s[0] * s[1] * s[2] * (4 * s[3] + 4 * s[4]) * element);
    case Kernel::kSwiglu:
      return Bytes(3 * s[0] * s[1] * element);
    case Kernel::kSwigluBackward:
      return Bytes(5 * s[0] * s[1] * element);
    case Kernel::kGate:
      return Bytes(s[0] * (2 * s[1] + 2 * s[2]) * element);
    case Kernel::kGateBackward:
      return Bytes(s[0] * (2 * s[1] + 2 * s[2]) * element);
    case Kernel::kPermute:
      return Bytes(2 * s[0] * s[1] * element);
    case Kernel::kUnpermute:  // the rows, two addends, the sum
      return Bytes(s[0] * s[2] * (s[1] + 3) * element);
    case Kernel::kAdd:
      return Bytes(3 * s[0] * s[1] * element);
    case Kernel::kEmbedding:
      return Bytes(2 * s[0] * s[1] * element);
    case Kernel::kEmbeddingBackward:
      return Bytes(3 * s[0] * s[1] * element);
    case Kernel::kCrossEntropy:
      return Bytes(s[0] * s[1] * element);
    case Kernel::kCrossEntropyBackward:
      return Bytes(2 * s[0] * s[1] * element);
    case Kernel::kAdamW:  // weight, two moments read and written; gradient read
      return Bytes(7 * s[0] * element);
    case Kernel::kReduce:
      return Bytes(s[0] * (s[1] + 1) * element);
    case Kernel::kSquareSum:
    case Kernel::kFill:
      return Bytes(s[0] * element);
    case Kernel::kCopy:
      return Bytes(2 * s[0] * element);
    case Kernel::kConvert:
      return Bytes((4 + 2) * s[0]);
    case Kernel::kQuantize:
    case Kernel::kDequantize:
      return Bytes((4 + 1) * s[0]);
    case Kernel::kRoundColumns:
      return Bytes((4 + 4) * s[0] * s[1]);
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return Bytes((4 + 2) * s[0]);
  }
  CHECK(false) << "kernel " << static_cast<int>(call.kernel);
}

}  // namespace rehearse
