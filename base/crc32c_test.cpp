#include "base/crc32c.h"

#include <string_view>
#include <vector>

#include <boost/crc.hpp>
#include <gtest/gtest.h>

#include "base/random.h"

namespace rehearse {
namespace {

// RFC 3720, appendix B.4.
TEST(Crc32c, PublishedValues) {
  EXPECT_EQ(crc32c(std::as_bytes(std::span(std::string_view("123456789")))), 0xE3069283u);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32)), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0xFF})), 0x62A8AB43u);
  EXPECT_EQ(crc32c({}), 0u);
}

// Every length and cut, beside an independent one.
TEST(Crc32c, AnyLengthInAnyParts) {
  Random random(1);
  std::vector<std::byte> bytes(20'000);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
  for (size_t size = 0; size <= bytes.size(); size += size < 100 ? 1 : 997) {
    const auto part = std::span(bytes).first(size);
    boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> expected;
    expected.process_bytes(part.data(), part.size());
    EXPECT_EQ(crc32c(part), expected.checksum()) << size;
    EXPECT_EQ(crc32c(part.subspan(size / 3), crc32c(part.first(size / 3))), expected.checksum());
  }
}

}  // namespace
}  // namespace rehearse
