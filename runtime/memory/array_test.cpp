// Typed arrays and tensors against answers worked out by hand.

#include "runtime/memory/array.h"

#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "runtime/memory/tensor.h"

namespace rehearse {
namespace {

TEST(Array, BytesOfEveryType) {
  // Two rows of 200: FP8 has two tiles per row, the second of 72 columns.
  EXPECT_EQ((Extent{DType::kFp32, 2, 200}).bytes(), Bytes(1600));
  EXPECT_EQ((Extent{DType::kBf16, 2, 200}).bytes(), Bytes(800));
  const Extent fp8{DType::kFp8, 2, 200};
  EXPECT_EQ(fp8.tiles(), 2);
  EXPECT_EQ(fp8.bytes(), Bytes(400 + 2 * 2 * 4));
  // In one buffer the scales begin on a line of their own.
  EXPECT_EQ(fp8.scales_offset(), 448u);
  EXPECT_EQ(fp8.buffer_bytes(), 448u + 2u * 4u * 4u) << "the stride of scales is a multiple of 4";
  EXPECT_EQ(to_string(fp8), "fp8 [2, 200]");
  // Blocks of 128 x 128: two rows and two columns of them.
  EXPECT_EQ((Extent{DType::kFp8Blocks, 200, 130}).bytes(), Bytes(200 * 130 + 2 * 2 * 4));
  // Twelve bits each, rows in whole bytes.
  EXPECT_EQ((Extent{DType::kE5m6, 3, 131}).bytes(), Bytes(3 * 197 + 3 * 2 * 4));
}

TEST(Array, TensorsHoldTheirTypeAndRefuseTheOthers) {
  BufferPool pool;
  Tensor fp32(pool, 4, 32), bf16(pool, 4, 32, DType::kBf16), fp8(pool, 4, 32, DType::kFp8);
  EXPECT_EQ(fp32.type(), DType::kFp32);
  EXPECT_NE(bf16.bf16(), nullptr);
  EXPECT_NE(fp8.codes(), nullptr);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(fp8.scales()), fp8.codes() + 128);
  EXPECT_EQ(bf16.scales(), nullptr);
  EXPECT_THROW(fp32.bf16(), InternalError);
  EXPECT_THROW(bf16.data(), InternalError);
  EXPECT_THROW(fp8.data(), InternalError);
  EXPECT_THROW(bf16.codes(), InternalError);
  // 512, 256 and 128 + 4 x 4 bytes, which rounds up to 192.
  EXPECT_EQ(pool.peak(), Bytes(512 + 256 + 192));
}

TEST(Array, ToBf16RoundsToNearestEven) {
  BufferPool pool;
  Tensor x(pool, 1, 4);
  // BF16 has 8 significant bits: neighbours of 1 are 2^-7 apart.
  const float values[] = {1.0f, 1 + 0x1p-8f, 1 + 0x1p-8f + 0x1p-20f, 1 + 3 * 0x1p-8f};
  std::copy(std::begin(values), std::end(values), x.data());
  const Tensor back = converted(converted(x, DType::kBf16, pool), DType::kFp32, pool);
  const float expected[] = {1.0f, 1.0f, 1 + 0x1p-7f, 1 + 0x1p-6f};
  EXPECT_TRUE(std::equal(std::begin(expected), std::end(expected), back.data()));
}

// Every tile of 128 columns has a scale of its own, so that its largest value becomes 448.
TEST(Array, ToFp8ScalesEveryTileByItself) {
  BufferPool pool;
  Tensor x(pool, 2, 130);
  x.fill(0);
  x.data()[0] = 896;         // row 0, tile 0: scale 2
  x.data()[1] = -2;          // code of -1
  x.data()[129] = 0x1p-20f;  // row 0, tile 1: scale 2^-20 / 448
  x.data()[130 + 5] = 224;   // row 1, tile 0: scale 1/2
  const Tensor y = converted(x, DType::kFp8, pool);
  const auto scale = [&](int64_t row, int64_t t) { return y.scales()[t * 4 + row]; };
  EXPECT_EQ(scale(0, 0), 2.0f);
  EXPECT_EQ(scale(0, 1), 0x1p-20f / 448);
  EXPECT_EQ(scale(1, 0), 0.5f);
  EXPECT_EQ(scale(1, 1), 1.0f) << "a tile of zeros";
  EXPECT_EQ(y.codes()[0], 0x7e) << "448";
  EXPECT_EQ(y.codes()[1], 0xb8) << "-1";
  EXPECT_EQ(y.codes()[129], 0x7e);
  const Tensor back = converted(y, DType::kFp32, pool);
  EXPECT_EQ(back.data()[0], 896.0f);
  EXPECT_EQ(back.data()[1], -2.0f);
  EXPECT_NEAR(back.data()[129], 0x1p-20, 0x1p-43);
  EXPECT_EQ(back.data()[135], 224.0f);
  EXPECT_EQ(back.data()[200], 0.0f);
}

TEST(Array, SumsOfBf16AreRoundedOnce) {
  // 1 + 2^-8 + 2^-8: rounded after each addition it stays 1; rounded once it is 1 + 2^-7.
  const kernels::Bf16 one = kernels::to_bf16(1), small = kernels::to_bf16(0x1p-8f);
  kernels::Bf16 total;
  const Extent e{DType::kBf16, 1, 1};
  const std::vector<ConstArray> copies = {{e, &one}, {e, &small}, {e, &small}};
  sum_in_order(copies, Array(e, &total));
  EXPECT_EQ(kernels::to_float(total), 1 + 0x1p-7f);
}

TEST(Array, SumsOfFp8AreRefused) {
  BufferPool pool;
  Tensor a(pool, 1, 128, DType::kFp8);
  const std::vector<ConstArray> copies = {a, a};
  try {
    sum_in_order(copies, a);
    FAIL();
  } catch (const InternalError& e) {
    EXPECT_NE(
        std::string(e.what()).find("FP8 cannot be summed, only sent and gathered: fp8 [1, 128]"),
        std::string::npos)
        << e.what();
  }
}

TEST(Array, PartsOfFp8AreRowsWithTheirScales) {
  BufferPool pool;
  Tensor x(pool, 4, 200, DType::kFp8);
  EXPECT_EQ(shard_units(x.extent()), 4);
  EXPECT_EQ(shard_unit_bytes(x.extent()), 208);
  const ConstArray part = part_of(x.array(), 1, 2);
  EXPECT_EQ(part.extent, (Extent{DType::kFp8, 2, 200}));
  EXPECT_EQ(part.codes(), x.codes() + 200);
  EXPECT_EQ(part.scales, x.scales() + 1);
  EXPECT_EQ(part.scale_stride, 4);
  Tensor y(pool, 3, 5, DType::kBf16);
  EXPECT_EQ(shard_units(y.extent()), 15);
  EXPECT_EQ(part_of(y.array(), 4, 3).bf16(), y.bf16() + 4);
}

// Every way between the types, of rows and of parts of them: as by FP32, and as it was.
TEST(Array, EveryWayBetweenTypesIsTheOneByFp32) {
  BufferPool pool;
  Tensor x(pool, 130, 200);
  for (int64_t i = 0; i < x.size(); ++i) {
    x.data()[i] = std::sin(static_cast<float>(i)) * std::exp2(static_cast<float>(i % 17) - 8);
  }
  const auto fp32 = [&](const ConstArray& a) { return converted(a, DType::kFp32, pool); };
  const auto same = [](const Tensor& a, const Tensor& b) {
    return std::equal(a.data(), a.data() + a.size(), b.data());
  };
  constexpr DType kTypes[] = {DType::kBf16, DType::kFp8, DType::kE5m6};
  for (const DType from : kTypes) {
    const Tensor a = converted(x, from, pool);
    for (const DType to : kTypes) {
      for (const kernels::ScaleRule rule :
           {kernels::ScaleRule{false, 1}, {true, 1}, {false, 128}}) {
        if (to == DType::kE5m6 && rule.rows > 1) continue;
        const Tensor direct = converted(a, {to, rule}, pool);
        const Tensor by_fp32 = from == to ? fp32(a) : fp32(converted(fp32(a), {to, rule}, pool));
        EXPECT_TRUE(same(fp32(direct), by_fp32))
            << to_string(a.extent()) << " to " << to_string(direct.extent());
        const Tensor part = fp32(rows_of(direct.array(), 126, 3));
        EXPECT_TRUE(std::equal(part.data(), part.data() + part.size(), by_fp32.data() + 126 * 200));
      }
    }
  }
  const Tensor bf16 = converted(x, DType::kBf16, pool);
  const Tensor blocks = converted(bf16, DType::kFp8Blocks, pool);
  // As rows whose scales are shared by 128: the same values.
  EXPECT_TRUE(same(fp32(blocks), fp32(converted(bf16, {DType::kFp8, {false, 128}}, pool))));
}

}  // namespace
}  // namespace rehearse
