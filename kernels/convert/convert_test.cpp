#include "kernels/convert/convert.h"

#include <limits>

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

// Every BF16 value comes back, and between two neighbours the nearer one, or the even one.
TEST(Convert, EveryBf16AndWhatLiesBetween) {
  std::vector<Bf16> all;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) all.push_back({static_cast<uint16_t>(bits)});
  const auto count = static_cast<int64_t>(all.size());
  std::vector<float> wide(all.size());
  convert(count, all.data(), wide.data());
  std::vector<Bf16> back(all.size());
  convert(count, wide.data(), back.data());
  for (size_t i = 0; i < all.size(); ++i) {
    if (std::isnan(wide[i])) {
      EXPECT_EQ(back[i].bits, 0x7fff);
    } else {
      EXPECT_EQ(back[i].bits, all[i].bits);
    }
  }
  // 1 and its neighbour 1 + 2^-7: the middle goes to the even one, a hair more to the odd one.
  const std::vector<float> between = {1 + 0x1p-8f, 1 + 0x1.01p-8f, 1 + 0x1.8p-7f};
  std::vector<Bf16> rounded(3);
  convert(3, between.data(), rounded.data());
  EXPECT_EQ(to_float(rounded[0]), 1.0f);
  EXPECT_EQ(to_float(rounded[1]), 1 + 0x1p-7f);
  EXPECT_EQ(to_float(rounded[2]), 1 + 0x1p-6f);
}

TEST(Convert, TheLargestFloatBecomesInfinite) {
  const float most = std::numeric_limits<float>::max();
  Bf16 rounded;
  convert(1, &most, &rounded);
  EXPECT_EQ(to_float(rounded), std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace rehearse::kernels
