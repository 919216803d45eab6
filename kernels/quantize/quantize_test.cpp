#include "kernels/quantize/quantize.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "base/integers.h"
#include "base/random.h"
#include "kernels/fp8_cast/fp8_cast.h"

namespace rehearse::kernels {
namespace {

struct Shape {
  int64_t rows, columns;
};
// Whole tiles, the widths of small models, edges, single values.
constexpr Shape kShapes[] = {
    {1, 128}, {3, 256}, {128, 128}, {130, 96}, {257, 64}, {5, 1}, {129, 131}, {300, 400}, {7, 255}};

enum class Values { kNormal, kTiny, kWide, kZero };
constexpr Values kValues[] = {Values::kNormal, Values::kTiny, Values::kWide, Values::kZero};

// BF16 values, so that every cast can be given the same.
std::vector<float> drawn(int64_t count, Values kind, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) {
    const double n = random.normal();
    const double scale = kind == Values::kTiny   ? 1e-9
                         : kind == Values::kWide ? std::exp2(40 * (random.uniform() - 0.5))
                         : kind == Values::kZero ? 0
                                                 : 1;
    v = to_float(to_bf16(static_cast<float>(n * scale)));
  }
  return x;
}
std::vector<Bf16> bf16(const std::vector<float>& x) {
  std::vector<Bf16> y;
  for (const float v : x) y.push_back(to_bf16(v));
  return y;
}

// One group the plain way: of values at the given places.
struct Group {
  float scale = 0;
  std::vector<uint8_t> codes;
};
Group plain(const std::vector<float>& x, const std::vector<int64_t>& places, bool power_of_two) {
  float amax = 0;
  for (const int64_t at : places) amax = std::max(amax, std::abs(x[static_cast<size_t>(at)]));
  Group g{.scale = e4m3_scale(amax, power_of_two), .codes = {}};
  const float inverse = e4m3_inverse(amax, g.scale, power_of_two);
  for (const int64_t at : places) g.codes.push_back(to_e4m3(x[static_cast<size_t>(at)] * inverse));
  return g;
}

template <typename Visit>
void for_each_case(Visit visit) {
  for (const Shape& s : kShapes) {
    for (const Values kind : kValues) {
      for (const bool power_of_two : {false, true}) {
        for (const int64_t rows : {1, 128}) {
          SCOPED_TRACE(testing::Message() << s.rows << " x " << s.columns << " power of two "
                                          << power_of_two << " rows " << rows);
          visit(s, drawn(s.rows * s.columns, kind, 7), ScaleRule{power_of_two, rows});
        }
      }
    }
  }
}

// Places of the tile of rows and columns that (r, c) is in.
std::vector<int64_t> tile(const Shape& s, int64_t r, int64_t c, int64_t high, int64_t wide) {
  std::vector<int64_t> places;
  for (int64_t i = r / high * high; i < std::min(s.rows, (r / high + 1) * high); ++i) {
    for (int64_t j = c / wide * wide; j < std::min(s.columns, (c / wide + 1) * wide); ++j) {
      places.push_back(i * s.columns + j);
    }
  }
  return places;
}

TEST(Quantize, RowsAreThePlainCastOfEveryTile) {
  for_each_case([](const Shape& s, const std::vector<float>& x, const ScaleRule& rule) {
    const int64_t stride = s.rows + 3;
    const int64_t tiles = ceil_div(s.columns, kScaleBlock);
    std::vector<uint8_t> codes(x.size()), of_bf16(x.size());
    std::vector<float> scales(static_cast<size_t>(tiles * stride), -1), same = scales;
    quantize_rows(s.rows, s.columns, x.data(), rule, codes.data(), scales.data(), stride);
    quantize_rows(s.rows, s.columns, bf16(x).data(), rule, of_bf16.data(), same.data(), stride);
    EXPECT_EQ(codes, of_bf16);
    EXPECT_EQ(scales, same);
    std::vector<float> back(x.size());
    dequantize_rows(s.rows, s.columns, codes.data(), scales.data(), stride, back.data());
    for (int64_t r = 0; r < s.rows; r += rule.rows) {
      for (int64_t c = 0; c < s.columns; c += kScaleBlock) {
        const std::vector<int64_t> places = tile(s, r, c, rule.rows, kScaleBlock);
        const Group g = plain(x, places, rule.power_of_two);
        for (size_t i = 0; i < places.size(); ++i) {
          const auto at = static_cast<size_t>(places[i]);
          ASSERT_EQ(codes[at], g.codes[i]);
          ASSERT_EQ(back[at], from_e4m3(g.codes[i]) * g.scale);
          const int64_t row = places[i] / s.columns;
          ASSERT_EQ(scales[static_cast<size_t>(c / kScaleBlock * stride + row)], g.scale);
        }
      }
    }
  });
}

TEST(Quantize, ColumnsAreThePlainCastOfEveryTile) {
  for_each_case([](const Shape& s, const std::vector<float>& x, const ScaleRule& rule) {
    const int64_t stride = s.columns + 1;
    const int64_t bands = ceil_div(s.rows, kScaleBlock);
    std::vector<uint8_t> codes(x.size());
    std::vector<float> scales(static_cast<size_t>(bands * stride));
    quantize_columns(s.rows, s.columns, x.data(), rule, codes.data(), scales.data(), stride);
    std::vector<float> rounded = x;
    round_columns(s.rows, s.columns, rule, rounded.data());
    const int64_t wide = rule.rows == 1 ? 1 : kScaleBlock;
    for (int64_t r = 0; r < s.rows; r += kScaleBlock) {
      for (int64_t c = 0; c < s.columns; c += wide) {
        const std::vector<int64_t> places = tile(s, r, c, kScaleBlock, wide);
        const Group g = plain(x, places, rule.power_of_two);
        for (size_t i = 0; i < places.size(); ++i) {
          const int64_t row = places[i] / s.columns;
          const int64_t column = places[i] % s.columns;
          ASSERT_EQ(codes[static_cast<size_t>(column * s.rows + row)], g.codes[i]);
          ASSERT_EQ(rounded[static_cast<size_t>(places[i])], from_e4m3(g.codes[i]) * g.scale);
          ASSERT_EQ(scales[static_cast<size_t>(r / kScaleBlock * stride + column)], g.scale);
        }
      }
    }
  });
}

TEST(Quantize, BlocksAreThePlainCastOfEveryTile) {
  for_each_case([](const Shape& s, const std::vector<float>& x, const ScaleRule& rule) {
    const int64_t across = ceil_div(s.columns, kScaleBlock);
    std::vector<uint8_t> codes(x.size());
    std::vector<float> scales(static_cast<size_t>(across * ceil_div(s.rows, kScaleBlock)));
    quantize_blocks(
        s.rows, s.columns, bf16(x).data(), rule.power_of_two, codes.data(), scales.data());
    std::vector<float> back(x.size());
    dequantize_blocks(0, s.rows, s.columns, codes.data(), scales.data(), back.data());
    for (int64_t r = 0; r < s.rows; r += kScaleBlock) {
      for (int64_t c = 0; c < s.columns; c += kScaleBlock) {
        const std::vector<int64_t> places = tile(s, r, c, kScaleBlock, kScaleBlock);
        const Group g = plain(x, places, rule.power_of_two);
        ASSERT_EQ(scales[static_cast<size_t>(r / kScaleBlock * across + c / kScaleBlock)], g.scale);
        for (size_t i = 0; i < places.size(); ++i) {
          ASSERT_EQ(codes[static_cast<size_t>(places[i])], g.codes[i]);
          ASSERT_EQ(back[static_cast<size_t>(places[i])], from_e4m3(g.codes[i]) * g.scale);
        }
      }
    }
    // A part of it, from a row within a block on.
    const int64_t first = s.rows / 3;
    std::vector<float> part(static_cast<size_t>((s.rows - first) * s.columns));
    dequantize_blocks(first, s.rows - first, s.columns, codes.data(), scales.data(), part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), back.begin() + first * s.columns));
  });
}

// What the GPU's casts are held to.
TEST(Quantize, AgreesWithTheReferenceOfTheGpusCasts) {
  const Shape s{256, 384};
  for (const bool power_of_two : {false, true}) {
    const std::vector<float> x = drawn(s.rows * s.columns, Values::kWide, 3);
    const std::vector<Bf16> narrow = bf16(x);
    std::vector<uint8_t> codes(x.size()), reference(x.size());
    std::vector<float> scales(3 * 256), reference_scales(3 * 256);
    quantize_rows(
        s.rows, s.columns, x.data(), {power_of_two, 1}, codes.data(), scales.data(), s.rows);
    CastRows rows{.x = narrow.data(),
                  .codes = reference.data(),
                  .scales = reference_scales.data(),
                  .scale_stride = s.rows,
                  .m = s.rows,
                  .k = s.columns,
                  .power_of_two = power_of_two};
    cast_rows_reference(rows);
    EXPECT_EQ(codes, reference);
    EXPECT_EQ(scales, reference_scales);
    // Requantised along tokens from what that made.
    std::vector<float> values(x.size());
    dequantize_rows(s.rows, s.columns, codes.data(), scales.data(), s.rows, values.data());
    std::vector<uint8_t> turned(x.size()), turned_reference(x.size());
    std::vector<float> turned_scales(2 * 384), turned_reference_scales(2 * 384);
    quantize_columns(s.rows,
                     s.columns,
                     values.data(),
                     {power_of_two, 1},
                     turned.data(),
                     turned_scales.data(),
                     s.columns);
    CastColumns columns{.x_codes = reference.data(),
                        .x_scales = reference_scales.data(),
                        .x_scale_stride = s.rows,
                        .codes = turned_reference.data(),
                        .scales = turned_reference_scales.data(),
                        .scale_stride = s.columns,
                        .tokens = s.rows,
                        .k = s.columns,
                        .power_of_two = power_of_two};
    cast_columns_reference(columns);
    EXPECT_EQ(turned, turned_reference);
    EXPECT_EQ(turned_scales, turned_reference_scales);
  }
}

TEST(Quantize, E5m6IsThePlainCastAndItsBytesAreTwelveBitsEach) {
  EXPECT_EQ(e5m6_bytes(128), 192);
  EXPECT_EQ(e5m6_bytes(131), 197);
  for_each_case([](const Shape& s, const std::vector<float>& x, const ScaleRule& rule) {
    if (rule.rows != 1 || !rule.power_of_two) return;
    const int64_t stride = s.rows + 1;
    std::vector<uint8_t> packed(static_cast<size_t>(s.rows * e5m6_bytes(s.columns)));
    std::vector<float> scales(static_cast<size_t>(ceil_div(s.columns, kScaleBlock) * stride));
    pack_e5m6(s.rows, s.columns, x.data(), packed.data(), scales.data(), stride);
    std::vector<float> back(x.size());
    unpack_e5m6(s.rows, s.columns, packed.data(), scales.data(), stride, back.data());
    for (int64_t r = 0; r < s.rows; ++r) {
      for (int64_t c = 0; c < s.columns; c += kScaleBlock) {
        float amax = 0;
        for (const int64_t at : tile(s, r, c, 1, kScaleBlock)) {
          amax = std::max(amax, std::abs(x[static_cast<size_t>(at)]));
        }
        const float scale = scales[static_cast<size_t>(c / kScaleBlock * stride + r)];
        EXPECT_EQ(scale, e5m6_scale(amax));
        EXPECT_EQ(std::exp2(std::ilogb(scale)), scale);
        for (const int64_t at : tile(s, r, c, 1, kScaleBlock)) {
          const float value = x[static_cast<size_t>(at)];
          ASSERT_EQ(back[static_cast<size_t>(at)], from_e5m6(to_e5m6(value / scale)) * scale);
          // Seven bits of precision 29 binades down from the largest.
          if (std::abs(value) > amax * 0x1p-29f) {
            ASSERT_LE(std::abs(back[static_cast<size_t>(at)] - value), std::abs(value) * 0x1p-7f);
          }
        }
      }
    }
  });
}

TEST(Quantize, EveryE5m6CodeIsPackedAsItself) {
  // All 4,096, in rows of two beside one that fixes the scale at 1.
  for (int code = 0; code < 4096; code += 2) {
    const float values[] = {from_e5m6(static_cast<uint16_t>(code)),
                            from_e5m6(static_cast<uint16_t>(code + 1)),
                            kE5m6Max};
    if (!std::isfinite(values[0]) || !std::isfinite(values[1])) continue;
    uint8_t packed[5];
    float scale = 0, back[3];
    pack_e5m6(1, 3, values, packed, &scale, 1);
    unpack_e5m6(1, 3, packed, &scale, 1, back);
    ASSERT_EQ(scale, 1);
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(back[i], values[i]);
      ASSERT_EQ(std::signbit(back[i]), std::signbit(values[i]));
    }
  }
}

TEST(Quantize, BadValuesShow) {
  const std::vector<float> x = {1, NAN, INFINITY, -2};
  std::vector<uint8_t> codes(4), packed(6);
  std::vector<float> back(4);
  float scale = 0;
  quantize_rows(1, 4, x.data(), {}, codes.data(), &scale, 1);
  dequantize_rows(1, 4, codes.data(), &scale, 1, back.data());
  EXPECT_TRUE(std::isinf(scale));
  for (const float v : back) EXPECT_TRUE(std::isnan(v));
  pack_e5m6(1, 4, x.data(), packed.data(), &scale, 1);
  unpack_e5m6(1, 4, packed.data(), &scale, 1, back.data());
  for (const float v : back) EXPECT_TRUE(std::isnan(v));
  back = x;
  round_columns(1, 4, {}, back.data());
  EXPECT_EQ(back[0], 1);
  EXPECT_TRUE(std::isnan(back[1]) && std::isnan(back[2]));
  EXPECT_EQ(back[3], -2);
}

}  // namespace
}  // namespace rehearse::kernels
