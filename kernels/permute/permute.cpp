#include "kernels/permute/permute.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rehearse::kernels {

int64_t map_rows(std::span<const int32_t> chosen, int64_t active, const RowMap& map) {
  std::fill(map.expert_rows.begin(), map.expert_rows.end(), 0);
  for (const int32_t e : chosen) {
    if (e >= 0) ++map.expert_rows[static_cast<size_t>(e)];
  }
  const auto capacity = static_cast<int64_t>(map.token_of_row.size());
  std::vector<int64_t> next(map.expert_rows.size());
  int64_t rows = 0;
  for (size_t e = 0; e < next.size(); ++e) {
    const int64_t count = map.expert_rows[e];
    next[e] = rows;
    map.expert_rows[e] = static_cast<int32_t>(std::clamp<int64_t>(capacity - rows, 0, count));
    rows += count;
  }
  for (size_t i = 0; i < chosen.size(); ++i) {
    map.row_of[i] = kNoRow;
    if (chosen[i] < 0) continue;
    const int64_t row = next[static_cast<size_t>(chosen[i])]++;
    if (row >= capacity) continue;
    map.token_of_row[static_cast<size_t>(row)] =
        static_cast<int32_t>(static_cast<int64_t>(i) / active);
    map.choice_of_row[static_cast<size_t>(row)] =
        static_cast<int32_t>(static_cast<int64_t>(i) % active);
    map.row_of[i] = static_cast<int32_t>(row);
  }
  return std::max<int64_t>(0, rows - capacity);
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
void permute(std::span<const int32_t> token_of_row,
             int64_t width,
             const uint8_t* tokens,
             uint8_t* rows) {
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
