#pragma once
// A piece of a GPU's work by its kind: a matrix product, or what an op does of another kind, in
// flops and bytes of device memory. Calibrations from profiles hold the time of exactly these
// kinds, and shapes that nobody profiled are priced by them.

#include <optional>
#include <string_view>
#include <vector>

#include "base/units.h"

namespace rehearse {

// Formats of a product's operands. FP8 products write BF16, weight gradients add to FP32.
enum class Format : uint8_t { kBf16, kFp8 };

enum class WorkKind : uint8_t {
  kProduct,
  kAttention,    // the core: scores, softmax, weighted sum
  kCast,         // to FP8 and back, transposes of FP8
  kNorm,         // RMSNorm, forward or backward
  kRope,         // rotations, and putting queries and keys together
  kActivation,   // SwiGLU
  kPermute,      // rows of tokens to experts, and their sum back
  kGate,         // router: its product, scores, top-k, loss
  kElementwise,  // additions, copies, small kernels
  kStream,       // large arrays once through: loss over a vocabulary, optimizer, embedding
  // Of profiles alone; no task is one of these.
  kData,     // an all-to-all's data on its way
  kWaiting,  // an all-to-all's wait for other ranks
  kGap,      // nothing runs between two kernels of an op
};

// How a product is made: kernels of a family are tuned alike.
enum class Family : uint8_t { kDense, kGrouped, kWeight, kGroupedWeight };

// Causal attention of whole sequences.
struct AttentionShape {
  int64_t batch = 0;                // sequences
  int64_t sequence = 0;             // tokens of each
  int64_t heads = 0, kv_heads = 0;  // of the rank
  int64_t qk = 0, v = 0;            // widths per head
  int64_t window = 0;               // keys that a query sees, itself counted; 0: all before it
  auto operator<=>(const AttentionShape&) const = default;
};

struct GpuTask {
  WorkKind kind = WorkKind::kProduct;
  Flops flops;
  Bytes bytes;  // read and written, nothing cached
  // Of products: y[m,n] = x[m,k] w[n,k]^T, m over all groups; a weight gradient dw[n,k] contracts
  // over m.
  Family family = Family::kDense;
  Format format = Format::kBf16;
  int64_t groups = 1, m = 0, n = 0, k = 0;
  // Of a fused core: of the whole sequences, of which this is a part of `parts`.
  std::optional<AttentionShape> core;
  int64_t parts = 1;
};

// A product of m rows over all groups (a weight gradient's tokens); every operand and result once,
// without scales, which are 3% of an FP8 operand.
GpuTask product_task(Family family, Format format, int64_t groups, int64_t m, int64_t n, int64_t k);
// A cast to FP8 of values of `element` bytes; without scales.
GpuTask cast_task(int64_t values, int64_t element);

// Flops and bytes at a device's peak rates, one after the other: kernels seldom hide all of one
// behind the other.
struct GpuPeaks {
  FlopsPerSecond bf16, fp8;
  BytesPerSecond memory;
};
Duration ideal_time(const GpuTask& task, const GpuPeaks& peaks);

extern const size_t kWorkKinds;
std::vector<WorkKind> work_kinds();  // all of them
// Whether GpuTasks are of this kind; the others are of profiles alone.
bool is_task(WorkKind kind);
// Tasks but products and attention.
bool is_memory_bound(WorkKind kind);

std::string_view name_of(WorkKind kind);
std::string_view name_of(Family family);
std::string_view name_of(Format format);
std::optional<WorkKind> work_kind_named(std::string_view name);
std::optional<Family> family_named(std::string_view name);
std::optional<Format> format_named(std::string_view name);

}  // namespace rehearse
