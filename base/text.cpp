#include "base/text.h"

#include <cstdint>

#include <fmt/format.h>

namespace rehearse {

namespace {

uint8_t byte_at(std::string_view text, size_t i) {
  return static_cast<uint8_t>(text[i]);
}

// REQUIRES: a whole character of `bytes` bytes begins there.
uint32_t code_point(std::string_view text, size_t at, size_t bytes) {
  if (bytes == 1) return byte_at(text, at);
  uint32_t code = byte_at(text, at) & (0x7FU >> bytes);
  for (size_t i = 1; i < bytes; ++i) code = code << 6 | (byte_at(text, at + i) & 0x3FU);
  return code;
}

// C0, DEL and C1, which terminals act on.
bool is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0);
}

struct Range {
  uint32_t first, last;
};
// Unicode's East Asian Width W and F in blocks, and marks that combine: near enough for a caret.
constexpr Range kWide[] = {{0x1100, 0x115F},
                           {0x2E80, 0x303E},
                           {0x3041, 0xA4CF},
                           {0xAC00, 0xD7A3},
                           {0xF900, 0xFAFF},
                           {0xFE30, 0xFE6F},
                           {0xFF00, 0xFF60},
                           {0xFFE0, 0xFFE6},
                           {0x1F300, 0x1F64F},
                           {0x1F900, 0x1F9FF},
                           {0x20000, 0x3FFFD}};
constexpr Range kCombining[] = {
    {0x0300, 0x036F}, {0x1AB0, 0x1AFF}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}};

template <size_t N>
bool within(const Range (&ranges)[N], uint32_t code) {
  for (const Range& r : ranges) {
    if (code >= r.first && code <= r.last) return true;
  }
  return false;
}

std::string escaped(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); ++i) out += fmt::format("\\x{:02x}", byte_at(bytes, i));
  return out;
}

}  // namespace

size_t character_bytes(std::string_view text, size_t at) {
  const uint8_t lead = byte_at(text, at);
  if (lead < 0x80) return 1;
  const size_t bytes = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (bytes == 0 || at + bytes > text.size()) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte_at(text, at + i) & 0xC0U) != 0x80) return 0;
  }
  const uint8_t second = byte_at(text, at + 1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool surrogate = lead == 0xED && second >= 0xA0;
  const bool beyond = lead == 0xF4 && second >= 0x90;
  return overlong || surrogate || beyond ? 0 : bytes;
}

std::optional<size_t> first_not_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = character_bytes(text, at);
    if (bytes == 0) return at;
    at += bytes;
  }
  return std::nullopt;
}

std::string valid_utf8(std::string_view text) {
  if (!first_not_utf8(text)) return std::string(text);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = character_bytes(text, at);
    out += bytes == 0 ? escaped(text.substr(at, 1)) : std::string(text.substr(at, bytes));
    at += bytes == 0 ? 1 : bytes;
  }
  return out;
}

std::string printable(std::string_view text, size_t most) {
  std::string out;
  size_t shown = 0;
  for (size_t at = 0; at < text.size(); ++shown) {
    if (shown == most) return out + "...";
    const size_t bytes = character_bytes(text, at);
    const std::string_view one = text.substr(at, bytes == 0 ? 1 : bytes);
    const bool plain = bytes > 0 && (one == "\n" || !is_control(code_point(text, at, bytes)));
    out += plain ? std::string(one) : one == "\t" ? " " : escaped(one);
    at += one.size();
  }
  return out;
}

std::string whole_characters(std::string_view text, size_t most_bytes) {
  if (text.size() <= most_bytes) return std::string(text);
  size_t at = 0;
  while (true) {
    const size_t bytes = character_bytes(text, at);
    const size_t next = at + (bytes == 0 ? 1 : bytes);
    if (next > most_bytes) return std::string(text.substr(0, at));
    at = next;
  }
}

size_t columns_of(std::string_view text) {
  size_t columns = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = character_bytes(text, at);
    const uint32_t code = bytes == 0 ? byte_at(text, at) : code_point(text, at, bytes);
    columns += within(kCombining, code) ? 0 : within(kWide, code) ? 2 : 1;
    at += bytes == 0 ? 1 : bytes;
  }
  return columns;
}

}  // namespace rehearse
