#pragma once
// One JSON object on one line, built field by field: the check and bench programs have no library
// for it.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace rehearse::kernels {

class JsonLine {
 public:
  JsonLine& add(const std::string& key, const std::string& value) {
    return raw(key, quoted(value));
  }
  JsonLine& add(const std::string& key, const char* value) { return add(key, std::string(value)); }
  JsonLine& add(const std::string& key, bool value) { return raw(key, value ? "true" : "false"); }
  JsonLine& add(const std::string& key, const std::vector<int64_t>& values) {
    std::string list;
    for (const int64_t v : values) list += (list.empty() ? "" : ", ") + std::to_string(v);
    return raw(key, "[" + list + "]");
  }
  // null for what is not a number.
  JsonLine& add(const std::string& key, double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.9g", value);
    return raw(key, std::isfinite(value) ? text : "null");
  }
  std::string text() const { return "{" + text_ + "}"; }

 private:
  JsonLine& raw(const std::string& key, const std::string& value) {
    text_ += (text_.empty() ? "" : ", ") + quoted(key) + ": " + value;
    return *this;
  }
  static std::string quoted(const std::string& s) {
    std::string out = "\"";
    for (const char c : s) {
      if (c == '"' || c == '\\') out += '\\';
      if (static_cast<unsigned char>(c) < 0x20) {
        char escape[8];
        std::snprintf(escape, sizeof(escape), "\\u%04x", c);
        out += escape;
      } else {
        out += c;
      }
    }
    return out + "\"";
  }

  std::string text_;
};

}  // namespace rehearse::kernels
