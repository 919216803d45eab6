#include "kernels/permute/permute.h"

#include <cstring>

namespace rehearse::kernels {

RowMap map_rows(std::span<const int32_t> chosen, int64_t active, int64_t experts) {
  RowMap map;
  map.expert_rows.assign(static_cast<size_t>(experts), 0);
  int64_t rows = 0;
  for (const int32_t e : chosen) {
    if (e < 0) continue;
    ++map.expert_rows[static_cast<size_t>(e)];
    ++rows;
  }
  std::vector<int64_t> next(static_cast<size_t>(experts), 0);
  for (size_t e = 1; e < next.size(); ++e) next[e] = next[e - 1] + map.expert_rows[e - 1];
  map.token_of_row.resize(static_cast<size_t>(rows));
  map.choice_of_row.resize(static_cast<size_t>(rows));
  map.row_of.assign(chosen.size(), kNoRow);
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] < 0) continue;
    const int64_t row = next[static_cast<size_t>(chosen[i])]++;
    map.token_of_row[static_cast<size_t>(row)] =
        static_cast<int32_t>(static_cast<int64_t>(i) / active);
    map.choice_of_row[static_cast<size_t>(row)] =
        static_cast<int32_t>(static_cast<int64_t>(i) % active);
    map.row_of[i] = static_cast<int32_t>(row);
  }
  return map;
}

namespace {

template <typename T>
void gather_rows(std::span<const int32_t> token_of_row, int64_t width, const T* tokens, T* rows) {
  for (size_t r = 0; r < token_of_row.size(); ++r) {
    std::memcpy(rows + static_cast<int64_t>(r) * width,
                tokens + token_of_row[r] * width,
                static_cast<size_t>(width) * sizeof(T));
  }
}

}  // namespace

void permute(std::span<const int32_t> token_of_row,
             int64_t width,
             const float* tokens,
             float* rows) {
  gather_rows(token_of_row, width, tokens, rows);
}
void permute(std::span<const int32_t> token_of_row, int64_t width, const Bf16* tokens, Bf16* rows) {
  gather_rows(token_of_row, width, tokens, rows);
}

void unpermute(const UnpermuteShape& s,
               const int32_t* row_of,
               const float* rows,
               const float* first,
               const float* second,
               float* out) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    float* sum = out + t * s.width;
    const float* a = first == nullptr ? nullptr : first + t * s.width;
    const float* b = second == nullptr ? nullptr : second + t * s.width;
    for (int64_t j = 0; j < s.width; ++j) {
      sum[j] = (a == nullptr ? 0.0f : a[j]) + (b == nullptr ? 0.0f : b[j]);
    }
    for (int64_t k = 0; k < s.active; ++k) {
      if (row_of[t * s.active + k] == kNoRow) continue;
      const float* row = rows + row_of[t * s.active + k] * s.width;
#pragma omp simd
      for (int64_t j = 0; j < s.width; ++j) sum[j] += row[j];
    }
  }
}

}  // namespace rehearse::kernels
