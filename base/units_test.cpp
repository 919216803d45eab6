#include "base/units.h"

#include <limits>

#include <gtest/gtest.h>

#include "base/errors.h"

namespace rehearse {
namespace {

TEST(Units, ParsesQuantitiesWithTheirUnit) {
  EXPECT_EQ(parse_duration("3.7 us"), Duration::picoseconds(3'700'000));
  EXPECT_EQ(parse_duration("2ms"), Duration::picoseconds(2'000'000'000));
  EXPECT_EQ(parse_bytes("80 GB"), Bytes(80'000'000'000));
  EXPECT_EQ(parse_bytes("64 MiB"), Bytes(64 << 20));
  EXPECT_EQ(parse_bytes_per_second("400 Gbit/s"), BytesPerSecond(50e9));
  EXPECT_EQ(parse_flops_per_second("989.5 TFLOP/s"), FlopsPerSecond(989.5e12));
  EXPECT_EQ(parse_tokens("14.8T tokens"), 14.8e12);
}

TEST(Units, RefusesWhatHasNoUnitOrAnother) {
  EXPECT_FALSE(parse_duration("5"));
  EXPECT_FALSE(parse_duration("5 GB"));
  EXPECT_FALSE(parse_duration("-5 us"));
  EXPECT_FALSE(parse_duration("us"));
  EXPECT_FALSE(parse_bytes("1e30 GB"));
  EXPECT_FALSE(parse_bytes_per_second("50 GB"));
  EXPECT_FALSE(parse_tokens("nan tokens"));
}

TEST(Units, TransferTimeIsBytesOverRateRoundedToNearest) {
  EXPECT_EQ(Bytes(1) / BytesPerSecond(3e12), Duration::picoseconds(0));  // 0.33 ps
  EXPECT_EQ(Bytes(2) / BytesPerSecond(3e12), Duration::picoseconds(1));  // 0.67 ps
  EXPECT_EQ(Bytes(50'000'000'000) / BytesPerSecond(50e9), Duration::seconds(1));
  EXPECT_THROW(Bytes(1) / BytesPerSecond(0), InternalError);
}

TEST(Units, PrintsForPeople) {
  EXPECT_EQ(to_string(Duration::microseconds(1234.5)), "1.234 ms");
  EXPECT_EQ(to_string(Bytes(1'500'000)), "1.5 MB");
  EXPECT_EQ(to_string(BytesPerSecond(50e9)), "50 GB/s");
}

TEST(Units, ArithmeticThatDoesNotFitIsAnError) {
  const Duration long_time = Duration::seconds(8e6);
  EXPECT_THROW(long_time + long_time, InputError);
  EXPECT_THROW(long_time * 2, InputError);
  EXPECT_THROW(Duration() - long_time - long_time, InputError);
  EXPECT_THROW(long_time.scaled(1e9), InputError);
  EXPECT_THROW(Duration::seconds(std::numeric_limits<double>::quiet_NaN()), InputError);
  EXPECT_THROW(Duration::seconds(std::numeric_limits<double>::infinity()), InputError);
  EXPECT_THROW(Bytes(int64_t{1} << 62) + Bytes(int64_t{1} << 62), InputError);
  EXPECT_THROW(Bytes(int64_t{1} << 62) * 2, InputError);
  EXPECT_EQ((Bytes(3) * 5 + Bytes(1)).count(), 16);
}

}  // namespace
}  // namespace rehearse
