#include "base/crc32c.h"

#include <array>
#include <cstring>

#include <nmmintrin.h>

namespace rehearse {
namespace {

constexpr size_t kWord = sizeof(uint64_t);
constexpr size_t kStream = 1024;  // bytes of each of the three streams below

uint64_t word_at(const std::byte* p) {
  uint64_t word;
  std::memcpy(&word, p, kWord);
  return word;
}

// A register's state times x^(8 kStream), modulo the polynomial: as if kStream zero bytes had
// followed. Linear, so that the bits' images make every state's.
uint32_t after_stream(uint32_t state) {
  static const auto kImages = [] {
    std::array<uint32_t, 32> images{};
    for (size_t bit = 0; bit < images.size(); ++bit) {
      uint64_t s = uint64_t{1} << bit;
      for (size_t i = 0; i < kStream / kWord; ++i) s = _mm_crc32_u64(s, 0);
      images[bit] = static_cast<uint32_t>(s);
    }
    return images;
  }();
  uint32_t image = 0;
  for (size_t bit = 0; bit < kImages.size(); ++bit) image ^= state >> bit & 1 ? kImages[bit] : 0;
  return image;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  uint64_t state = ~before;
  const std::byte* p = bytes.data();
  size_t left = bytes.size();
  // The instruction takes three cycles and one can begin in each: three streams side by side.
  for (; left >= 3 * kStream; p += 3 * kStream, left -= 3 * kStream) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kStream; i += kWord) {
      state = _mm_crc32_u64(state, word_at(p + i));
      second = _mm_crc32_u64(second, word_at(p + kStream + i));
      third = _mm_crc32_u64(third, word_at(p + 2 * kStream + i));
    }
    state = after_stream(static_cast<uint32_t>(state)) ^ second;
    state = after_stream(static_cast<uint32_t>(state)) ^ third;
  }
  for (; left >= kWord; p += kWord, left -= kWord) state = _mm_crc32_u64(state, word_at(p));
  auto last = static_cast<uint32_t>(state);
  for (; left > 0; ++p, --left) last = _mm_crc32_u8(last, static_cast<uint8_t>(*p));
  return ~last;
}

}  // namespace rehearse
