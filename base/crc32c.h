#pragma once
// CRC-32C (Castagnoli; RFC 3720, appendix B.4), the checksum that processors compute themselves.

#include <cstdint>
#include <span>

namespace rehearse {

// Of bytes that follow those that `before` is the checksum of; 0: of none.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace rehearse
