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

// The same as one value at a time, whatever the bits.
TEST(Convert, E4m3OfManyIsThatOfEach) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    values.push_back(to_float(Bf16{static_cast<uint16_t>(bits)}));
  }
  uint64_t state = 7;
  for (int i = 0; i < 2'000'003; ++i) {  // any bits, and exponents about E4M3's range; an odd count
    state = state * 6364136223846793005u + 1442695040888963407u;
    uint32_t bits = static_cast<uint32_t>(state >> 32);
    if (i % 2) bits = (bits & 0x807fffff) | (112 + bits % 27) << 23;
    values.push_back(std::bit_cast<float>(bits));
  }
  const auto count = static_cast<int64_t>(values.size());
  for (const float inverse : {1.0f, 0.37f, 0x1p20f}) {
    std::vector<uint8_t> codes(values.size());
    encode_e4m3(count, values.data(), inverse, codes.data());
    int64_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) wrong += codes[i] != to_e4m3(values[i] * inverse);
    EXPECT_EQ(wrong, 0) << inverse;
    // Of every BF16, of an odd number of them.
    std::vector<Bf16> narrow;
    for (uint32_t bits = 0; bits < 0x10000; ++bits) narrow.push_back({static_cast<uint16_t>(bits)});
    narrow.push_back({0x3f80});
    std::vector<uint8_t> of_narrow(narrow.size());
    encode_e4m3(std::ssize(narrow), narrow.data(), inverse, of_narrow.data());
    for (size_t i = 0; i < narrow.size(); ++i) {
      wrong += of_narrow[i] != to_e4m3(to_float(narrow[i]) * inverse);
    }
    EXPECT_EQ(wrong, 0) << inverse << " of BF16";
  }
  std::vector<uint8_t> codes(256);
  for (size_t c = 0; c < 256; ++c) codes[c] = static_cast<uint8_t>(c);
  for (const float scale : {1.0f, 0.013f, 3e-30f}) {
    std::vector<float> decoded(256);
    decode_e4m3(256, codes.data(), scale, decoded.data());
    for (size_t c = 0; c < 256; ++c) {
      const float want = from_e4m3(codes[c]) * scale;
      EXPECT_TRUE(std::isnan(want)
                      ? std::isnan(decoded[c])
                      : std::bit_cast<uint32_t>(want) == std::bit_cast<uint32_t>(decoded[c]))
          << c;
    }
  }
  const std::vector<float> some = {1, NAN, -3, 2, -NAN};
  EXPECT_EQ(largest_magnitude(5, some.data()), 3);
  EXPECT_EQ(largest_magnitude(0, some.data()), 0);
  const std::vector<float> infinite = {1, -INFINITY, NAN};
  EXPECT_EQ(largest_magnitude(3, infinite.data()), INFINITY);
  const std::vector<Bf16> narrow = {
      to_bf16(1), to_bf16(NAN), to_bf16(-3), to_bf16(2), Bf16{0xffff}};
  EXPECT_EQ(largest_magnitude(5, narrow.data()), 3);
  EXPECT_EQ(largest_magnitude(0, narrow.data()), 0);
  const std::vector<Bf16> none = {to_bf16(1), to_bf16(-INFINITY)};
  EXPECT_EQ(largest_magnitude(2, none.data()), INFINITY);
}

TEST(Convert, TheLargestFloatBecomesInfinite) {
  const float most = std::numeric_limits<float>::max();
  Bf16 rounded;
  convert(1, &most, &rounded);
  EXPECT_EQ(to_float(rounded), std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace rehearse::kernels
