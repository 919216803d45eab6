#pragma once
// Tokens to experts' rows and back on a GPU, and the router; nothing waits for the host, and every
// place follows from counts and prefix sums, so that the same choices give the same bits.

#include "kernels/gate/gate.h"
#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// Where each (token, choice) goes: rows by expert, within an expert by token.
struct GpuRowMap {
  const int32_t* slots = nullptr;    // [tokens, active], below `experts`; negative: no row
  int32_t* expert_rows = nullptr;    // [experts]
  int32_t* token_of_row = nullptr;   // [capacity]; -1 for padding behind an expert's rows
  int32_t* choice_of_row = nullptr;  // [capacity], of rows that there are
  int32_t* row_of = nullptr;         // [tokens, active]; -1 (kNoRow) where there is none
  int64_t* overflowed = nullptr;     // [1]: grows by the choices that found no room
  int32_t* starts = nullptr;         // [map_chunks(tokens) + 1, experts], scratch
  int64_t tokens = 0, active = 0;
  int64_t experts = 0;
  int64_t capacity =
      0;  // rows, padding counted: a multiple of 128; the last experts' last find none
};
inline constexpr int64_t kMapChunk = 64;  // tokens
inline int64_t map_chunks(int64_t tokens) {
  return (tokens + kMapChunk - 1) / kMapChunk;
}

// rows[r] = x[token_of_row[r]]: values, or codes with the scales of their tiles, [tiles, stride].
struct GpuPermute {
  const int32_t* token_of_row = nullptr;
  RowCounts counts;
  ConstValues x;  // [tokens, width]; or
  Values rows;    // [capacity, width]
  const uint8_t* x_codes = nullptr;
  uint8_t* row_codes = nullptr;
  const float* x_scales = nullptr;
  float* row_scales = nullptr;
  int64_t x_scale_stride = 0, row_scale_stride = 0;
  int64_t width = 0, capacity = 0;
};

// y[t] = first[t] + second[t] + the sum over k of rows[row_of[t, k]], in this order.
struct GpuUnpermute {
  const int32_t* row_of = nullptr;  // [tokens, active]
  ConstValues rows;                 // [capacity, width]
  ConstValues first, second;        // [tokens, width], or nothing
  Values y;
  int64_t tokens = 0, active = 0, width = 0;
};

// The gate's choice (kernels/gate/ says what it is), a warp per token. At most 3,500 experts, 64
// groups and 32 active ones.
struct GpuGate {
  GateShape shape;
  const float* logits = nullptr;  // [tokens, experts]
  const float* bias = nullptr;    // [experts], or null
  float* scores = nullptr;        // [tokens, experts]
  int32_t* chosen = nullptr;      // [tokens, active]
  float* weights = nullptr;       // [tokens, active]
};
struct GpuGateBackward {
  GateShape shape;
  BalanceLoss loss;
  const float* d_weights = nullptr;  // [tokens, active]
  const float* scores = nullptr;
  const int32_t* chosen = nullptr;
  float* frequency = nullptr;  // [tokens / loss.length, experts], scratch; unused without a loss
  float* d_logits = nullptr;   // [tokens, experts]
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. Of nothing:
// nothing is.
namespace gpu {
void map_rows(const GpuRowMap& m, Stream stream);
void permute(const GpuPermute& p, Stream stream);
void unpermute(const GpuUnpermute& u, Stream stream);
void gate(const GpuGate& g, Stream stream);
void gate_backward(const GpuGateBackward& g, Stream stream);
}  // namespace gpu
namespace imitated {
void map_rows(const GpuRowMap& m, Stream stream);
void permute(const GpuPermute& p, Stream stream);
void unpermute(const GpuUnpermute& u, Stream stream);
void gate(const GpuGate& g, Stream stream);
void gate_backward(const GpuGateBackward& g, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
