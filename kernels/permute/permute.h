#pragma once
// Moving tokens to rows grouped by expert, and back.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/formats/formats.h"

namespace rehearse::kernels {

constexpr int32_t kNoRow = -1;

// Where each (token, choice) goes: rows stand by expert, within an expert by token.
struct RowMap {
  std::span<int32_t> expert_rows;    // [experts]
  std::span<int32_t> token_of_row;   // [capacity], of which the rows that there are are written
  std::span<int32_t> choice_of_row;  // [capacity], index into the token's k choices
  std::span<int32_t> row_of;         // [tokens, active], kNoRow for experts of other ranks
};

// chosen: [tokens, active], below the number of experts; negative ones (experts of other ranks) get
// no row. Rows that the capacity has no room for, the last experts' last, get none either: returns
// how many these are.
int64_t map_rows(std::span<const int32_t> chosen, int64_t active, const RowMap& map);

// rows[r] = tokens[token_of_row[r]].  tokens: [tokens, width]; rows: [rows, width].
void permute(std::span<const int32_t> token_of_row,
             int64_t width,
             const float* tokens,
             float* rows);
void permute(std::span<const int32_t> token_of_row, int64_t width, const Bf16* tokens, Bf16* rows);
void permute(std::span<const int32_t> token_of_row,
             int64_t width,
             const uint8_t* tokens,
             uint8_t* rows);

struct UnpermuteShape {
  int64_t tokens = 0;
  int64_t active = 0;
  int64_t width = 0;
};

// out[t] = first[t] + second[t] + sum_k rows[row_of[t, k]], summed in the order of k, kNoRow left
// out; first and
// second: [tokens, width] or null for nothing.
void unpermute(const UnpermuteShape& s,
               const int32_t* row_of,
               const float* rows,
               const float* first,
               const float* second,
               float* out);

void unpermute_reference(const UnpermuteShape& s,
                         const int32_t* row_of,
                         const double* rows,
                         double* out);

}  // namespace rehearse::kernels
