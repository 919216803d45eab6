#pragma once
// One call of one kernel at one shape, and its flops and bytes: the common currency of kernels/
// (which benchmarks them), calibration (which stores their times) and sim/ (which prices ops).

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace rehearse {

// Shapes per kernel, in the order of KernelCall::shape:
//   matmul              m n k        y[m,n] = x[m,k] w[n,k]^T
//   matmul_grad_input   m n k        dx[m,k] = dy[m,n] w[n,k]
//   matmul_grad_weight  m n k        dw[n,k] += dy[m,n]^T x[m,k]
//   rmsnorm(_backward)  rows width
//   rope                rows heads width
//   attention(_backward) sequences length heads qk v     causal
//   swiglu(_backward)   rows width   [rows, 2 width] -> [rows, width]
//   gate(_backward)     tokens experts active
//   permute             rows width          rows of tokens gathered by expert
//   unpermute           tokens active width sum of a token's rows
//   add                 rows width
//   embedding(_backward) tokens width
//   cross_entropy(_backward) tokens vocabulary
//   adamw               elements
//   reduce              elements copies     sum of the copies of a gradient
//   square_sum          elements        sum of squares, for the gradient's norm
//   copy                elements
//   fill                elements        gradients back to zero
//   convert             elements        between FP32 and BF16
//   quantize            elements        to E4M3, a scale per 128
//   dequantize          elements        and back
//   round_columns       rows width      to E4M3 and back, a scale per column and 128 rows
//   pack_e5m6           elements        to twelve bits, a scale per 128
//   unpack_e5m6         elements        and back
enum class Kernel : uint8_t {
  kMatmul,
  kMatmulGradInput,
  kMatmulGradWeight,
  kRmsNorm,
  kRmsNormBackward,
  kRope,
  kAttention,
  kAttentionBackward,
  kSwiglu,
  kSwigluBackward,
  kGate,
  kGateBackward,
  kPermute,
  kUnpermute,
  kAdd,
  kEmbedding,
  kEmbeddingBackward,
  kCrossEntropy,
  kCrossEntropyBackward,
  kAdamW,
  kReduce,
  kSquareSum,
  kCopy,
  kFill,
  kConvert,
  kQuantize,
  kDequantize,
  kRoundColumns,
  kPackE5m6,
  kUnpackE5m6,
};

struct KernelCall {
  Kernel kernel = Kernel::kMatmul;
  std::array<int64_t, 5> shape{};  // unused entries are 0

  auto operator<=>(const KernelCall&) const = default;
};

std::string_view name_of(Kernel kernel);
std::optional<Kernel> kernel_named(std::string_view name);
std::vector<Kernel> all_kernels();
std::string kernel_list();  // their names, "matmul, ..."
bool is_product(Kernel kernel);
bool is_attention(Kernel kernel);
// How many entries of KernelCall::shape the kernel uses, and what they are called.
std::vector<std::string_view> shape_names(Kernel kernel);
// Which entry counts rows: the one that varies with routing, and that costs are interpolated along.
constexpr size_t kRowsEntry = 0;

// "matmul m=512 n=128 k=64"
std::string to_string(const KernelCall& call);

// Multiply-adds count two; transcendental functions count one.
Flops flops(const KernelCall& call);
// Bytes that must cross the memory bus when nothing is cached: inputs once, outputs once.
// element: bytes of one element of every tensor (4 for FP32).
Bytes memory_traffic(const KernelCall& call, int64_t element);

// Elements of its tensors that this project's runtime converts where they are kept in BF16: kernels
// of cores compute in FP32. Scores, logits, losses and gradients of weights are FP32 anyway; rows
// are moved, and rotated, as they are.
int64_t converted_elements(const KernelCall& call);

}  // namespace rehearse
