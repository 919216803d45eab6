#pragma once
// A short name that a kernel carries as a number.

#include <cstdint>
#include <string>

namespace rehearse::kernels {

// The first 8 characters.
constexpr uint64_t label_of(const char* name) {
  uint64_t text = 0;
  for (int i = 0; i < 8 && name[i]; ++i) {
    text |= static_cast<uint64_t>(static_cast<unsigned char>(name[i])) << (8 * i);
  }
  return text;
}

struct Label {
  consteval Label(const char* name) : text(label_of(name)) {}
  uint64_t text;
};

inline std::string label_text(uint64_t text) {
  std::string out;
  for (; text != 0; text >>= 8) out += static_cast<char>(text & 0xff);
  return out;
}

}  // namespace rehearse::kernels
