#pragma once
// On a GPU, values from places to places: parts of matrices, and entries by index.

#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// to[row * to_row + part * to_part + c] = from[row * from_row + part * from_part + c], for `parts`
// parts of `width` columns in every row: heads, halves, columns of a matrix.
struct GpuMove {
  const float* from = nullptr;
  float* to = nullptr;
  int64_t rows = 0, parts = 1, width = 0;
  int64_t from_row = 0, from_part = 0;
  int64_t to_row = 0, to_part = 0;
};

// Entries of [tokens, active] to experts' rows, [capacity]; and back, 0 where a choice has no row:
// to[t * to_row + k].
struct GpuOfRows {
  const int32_t* token_of_row = nullptr;
  const int32_t* choice_of_row = nullptr;
  RowCounts counts;
  const float* choices = nullptr;  // [tokens, active]
  float* rows = nullptr;           // [capacity]
  int64_t active = 0, capacity = 0;
};
struct GpuOfChoices {
  const int32_t* row_of = nullptr;  // [tokens, active]
  const float* rows = nullptr;
  float* to = nullptr;
  int64_t tokens = 0, active = 0, to_row = 0;
};

// to[i] = table[from[i]].
struct GpuLookUp {
  const int32_t* from = nullptr;
  const int32_t* table = nullptr;
  int32_t* to = nullptr;
  int64_t count = 0;
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. Of nothing:
// nothing is.
namespace gpu {
void move(const GpuMove& m, Stream stream);
void of_rows(const GpuOfRows& r, Stream stream);
void of_choices(const GpuOfChoices& c, Stream stream);
void look_up(const GpuLookUp& l, Stream stream);
}  // namespace gpu
namespace imitated {
void move(const GpuMove& m, Stream stream);
void of_rows(const GpuOfRows& r, Stream stream);
void of_choices(const GpuOfChoices& c, Stream stream);
void look_up(const GpuLookUp& l, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
