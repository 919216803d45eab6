#include "kernels/permute/permute.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

// A map with memory of its own.
struct OwnMap {
  OwnMap(std::span<const int32_t> chosen, int64_t active, size_t experts, size_t capacity)
      : expert_rows(experts),
        token_of_row(capacity, 99),
        choice_of_row(capacity, 99),
        row_of(chosen.size()),
        left_out(map_rows(chosen, active, {expert_rows, token_of_row, choice_of_row, row_of})) {}
  std::vector<int32_t> expert_rows, token_of_row, choice_of_row, row_of;
  int64_t left_out;
};

TEST(Permute, RowsStandByExpertThenToken) {
  // Two tokens choose (2, 0) and (2, 1): expert 0 gets token 0, expert 1 token 1, expert 2 both.
  const std::vector<int32_t> chosen = {2, 0, 2, 1};
  const OwnMap map(chosen, 2, 4, 4);
  EXPECT_EQ(map.expert_rows, (std::vector<int32_t>{1, 1, 2, 0}));
  EXPECT_EQ(map.token_of_row, (std::vector<int32_t>{0, 1, 0, 1}));
  EXPECT_EQ(map.choice_of_row, (std::vector<int32_t>{1, 1, 0, 0}));
  EXPECT_EQ(map.row_of, (std::vector<int32_t>{2, 0, 3, 1}));
  EXPECT_EQ(map.left_out, 0);
}

TEST(Permute, WhatHasNoRoomHasNoRow) {
  const std::vector<int32_t> chosen = {2, 0, 2, 1};
  const OwnMap map(chosen, 2, 4, 3);
  EXPECT_EQ(map.expert_rows, (std::vector<int32_t>{1, 1, 1, 0}));
  EXPECT_EQ(map.token_of_row, (std::vector<int32_t>{0, 1, 0}));
  EXPECT_EQ(map.row_of, (std::vector<int32_t>{2, 0, kNoRow, 1}));
  EXPECT_EQ(map.left_out, 1);
  const OwnMap more(chosen, 2, 4, 6);  // what is behind the rows is left alone
  EXPECT_EQ(more.token_of_row, (std::vector<int32_t>{0, 1, 0, 1, 99, 99}));
  EXPECT_EQ(more.left_out, 0);
  const OwnMap none(chosen, 2, 4, 0);
  EXPECT_EQ(none.expert_rows, (std::vector<int32_t>{0, 0, 0, 0}));
  EXPECT_EQ(none.left_out, 4);
}

TEST(Permute, ExpertsOfOtherRanksGetNoRow) {
  const std::vector<int32_t> chosen = {1, -1, -1, -1, -1, 0};
  const OwnMap map(chosen, 2, 2, 2);
  EXPECT_EQ(map.expert_rows, (std::vector<int32_t>{1, 1}));
  EXPECT_EQ(map.token_of_row, (std::vector<int32_t>{2, 0}));
  EXPECT_EQ(map.row_of, (std::vector<int32_t>{1, kNoRow, kNoRow, kNoRow, kNoRow, 0}));
  const std::vector<float> rows = {5, 7};
  Guarded out(3);
  unpermute({3, 2, 1}, map.row_of.data(), rows.data(), nullptr, nullptr, out.data());
  EXPECT_EQ(std::vector<float>(out.data(), out.data() + 3), (std::vector<float>{7, 0, 5}));
}

TEST(Permute, ThereAndBackIsAFactorOfTopK) {
  Inputs inputs;
  constexpr int64_t kTokens = 33, kActive = 4, kExperts = 16, kWidth = 20;
  const auto chosen = inputs.indices(kTokens * kActive, kExperts);
  const auto tokens = inputs.normal(kTokens * kWidth);
  const OwnMap map(chosen, kActive, kExperts, kTokens * kActive);
  Guarded rows(kTokens * kActive * kWidth), back(kTokens * kWidth);
  permute(map.token_of_row, kWidth, floats(tokens).data(), rows.data());
  const UnpermuteShape s{kTokens, kActive, kWidth};
  std::vector<double> doubles(rows.data(), rows.data() + kTokens * kActive * kWidth);
  std::vector<double> want(tokens.size());
  unpermute_reference(s, map.row_of.data(), doubles.data(), want.data());
  unpermute(s, map.row_of.data(), rows.data(), nullptr, nullptr, back.data());
  expect_close(back.data(), want, 1e-6, "sum");
  for (size_t i = 0; i < want.size(); ++i) want[i] = kActive * tokens[i];
  expect_close(back.data(), want, 1e-6, "top-k times the token");

  const auto first = inputs.normal(kTokens * kWidth);
  const auto second = inputs.normal(kTokens * kWidth);
  unpermute(
      s, map.row_of.data(), rows.data(), floats(first).data(), floats(second).data(), back.data());
  for (size_t i = 0; i < want.size(); ++i) want[i] += first[i] + second[i];
  expect_close(back.data(), want, 2e-6, "with addends");
}

}  // namespace
}  // namespace rehearse::kernels
