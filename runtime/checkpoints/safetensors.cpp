#include "runtime/checkpoints/safetensors.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/call_files.h"
#include "base/crc32c.h"
#include "base/errors.h"
#include "base/file.h"
#include "kernels/formats/formats.h"

namespace rehearse {
namespace {

using nlohmann::json;

constexpr int64_t kLongestHeader = 100'000'000;  // as the format's own library allows

int64_t bytes_of_type(const std::string& type) {
  static const std::map<std::string, int64_t> sizes = {{"F64", 8},
                                                       {"I64", 8},
                                                       {"U64", 8},
                                                       {"F32", 4},
                                                       {"I32", 4},
                                                       {"U32", 4},
                                                       {"BF16", 2},
                                                       {"F16", 2},
                                                       {"I16", 2},
                                                       {"U16", 2},
                                                       {"F8_E4M3", 1},
                                                       {"F8_E5M2", 1},
                                                       {"I8", 1},
                                                       {"U8", 1},
                                                       {"BOOL", 1}};
  const auto at = sizes.find(type);
  return at == sizes.end() ? 0 : at->second;
}

float of_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = bits >> 10 & 0x1FU;
  const uint32_t fraction = bits & 0x3FFU;
  uint32_t word = 0;
  if (exponent == 0x1F) {
    word = sign | 0x7F800000U | fraction << 13;
  } else if (exponent != 0) {
    word = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    const float small = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -small : small;
  }
  float x = 0;
  std::memcpy(&x, &word, sizeof(x));
  return x;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const auto fail = [&](const std::string& why) -> void {
    throw InputError(fmt::format("{}: {}", path, why));
  };
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail("no such file");
  note_input(path);
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(fmt::format("cannot be read: {}", std::strerror(errno)));
  struct stat status {};
  ::fstat(file, &status);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* const mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped != MAP_FAILED) data_ = static_cast<const std::byte*>(mapped);
  }
  ::close(file);
  try {
    uint64_t length = 0;
    if (data_ == nullptr || size_ < sizeof(length)) {
      fail(fmt::format("is no safetensors file: {} bytes; a header's length alone takes 8", size_));
    }
    std::memcpy(&length, data_, sizeof(length));
    const auto most = std::min<uint64_t>(kLongestHeader, size_ - sizeof(length));
    if (length > most) {
      fail(fmt::format("is no safetensors file, or cut off: its header would take {} bytes of {}",
                       length,
                       size_));
    }
    const char* const text = reinterpret_cast<const char*>(data_) + sizeof(length);
    // Names that come twice would silently be one.
    std::set<std::string> names;
    const json header = json::parse(
        text,
        text + length,
        [&](int depth, json::parse_event_t event, json& parsed) {
          if (event == json::parse_event_t::key && depth == 1) {
            const auto name = parsed.get<std::string>();
            if (!names.insert(name).second) fail("tensor '" + name + "' comes twice");
          }
          return true;
        },
        /*allow_exceptions=*/false);
    if (!header.is_object()) fail("its header is no JSON object");
    const auto first = static_cast<int64_t>(sizeof(length) + length);
    std::vector<const Entry*> places;
    for (const auto& [name, of] : header.items()) {
      if (!of.is_object()) fail("'" + name + "' is no JSON object");
      if (name == "__metadata__") {
        for (const auto& [key, value] : of.items()) {
          if (!value.is_string()) fail("__metadata__." + key + " is no text");
          metadata_[key] = value.get<std::string>();
        }
        continue;
      }
      const auto fail_tensor = [&](const std::string& why) {
        fail("tensor '" + name + "': " + why);
      };
      if (!of.contains("dtype") || !of["dtype"].is_string()) fail_tensor("no dtype");
      if (!of.contains("shape") || !of["shape"].is_array()) fail_tensor("no shape");
      if (!of.contains("data_offsets") || !of["data_offsets"].is_array() ||
          of["data_offsets"].size() != 2) {
        fail_tensor("no data_offsets [begin, end]");
      }
      Entry e{.type = of["dtype"].get<std::string>()};
      const int64_t element = bytes_of_type(e.type);
      if (element == 0) fail_tensor("its dtype '" + e.type + "' is not known");
      const auto whole = [&](const json& n, const char* what) {
        if (!n.is_number_unsigned() || n.get<uint64_t>() > INT64_MAX / 2) {
          fail_tensor(fmt::format("{} holds {}; expected whole numbers", what, n.dump()));
        }
        return n.get<int64_t>();
      };
      __extension__ using Wide = __int128;
      Wide bytes = element;
      for (const json& n : of["shape"]) {
        e.shape.push_back(whole(n, "shape"));
        bytes *= e.shape.back();
        if (bytes > static_cast<Wide>(size_)) fail_tensor("is larger than the file");
      }
      const int64_t begin = whole(of["data_offsets"][0], "data_offsets");
      const int64_t end = whole(of["data_offsets"][1], "data_offsets");
      if (end < begin || end > static_cast<int64_t>(size_) - first) {
        fail_tensor(fmt::format("bytes {} to {} are not in the file, which has {}",
                                begin,
                                end,
                                static_cast<int64_t>(size_) - first));
      }
      if (end - begin != static_cast<int64_t>(bytes)) {
        fail_tensor(fmt::format("{} [{}] takes {} bytes; data_offsets give it {}",
                                e.type,
                                fmt::join(e.shape, ", "),
                                static_cast<int64_t>(bytes),
                                end - begin));
      }
      e.begin = first + begin;
      e.end = first + end;
      places.push_back(&entries_.emplace(name, std::move(e)).first->second);
    }
    std::sort(places.begin(), places.end(), [](const Entry* a, const Entry* b) {
      return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
    });
    int64_t at = first;
    for (const Entry* e : places) {
      if (e->begin != at) {
        fail(fmt::format("tensors overlap, or leave a gap, at byte {}", std::min(at, e->begin)));
      }
      at = e->end;
    }
    if (at != static_cast<int64_t>(size_)) {
      fail(fmt::format("{} bytes behind the last tensor belong to none",
                       static_cast<int64_t>(size_) - at));
    }
  } catch (...) {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::vector<float> SafetensorsFile::read(const std::string& name) const {
  const Entry& e = entries_.at(name);
  return read(name, 0, (e.end - e.begin) / bytes_of_type(e.type));
}

std::vector<float> SafetensorsFile::read(const std::string& name,
                                         int64_t first,
                                         int64_t count) const {
  const Entry& e = entries_.at(name);
  const int64_t element = bytes_of_type(e.type);
  CHECK(first >= 0 && count >= 0 && e.begin + (first + count) * element <= e.end) << name;
  const std::byte* const at = data_ + e.begin + first * element;
  std::vector<float> values(static_cast<size_t>(count));
  if (e.type == "F32") {
    std::memcpy(values.data(), at, values.size() * sizeof(float));
  } else if (e.type == "BF16" || e.type == "F16") {
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, at + i * sizeof(bits), sizeof(bits));
      if (e.type == "F16") {
        values[i] = of_half(bits);
      } else {
        const uint32_t word = static_cast<uint32_t>(bits) << 16;
        std::memcpy(&values[i], &word, sizeof(word));
      }
    }
  } else if (e.type == "F8_E4M3") {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = kernels::from_e4m3(static_cast<uint8_t>(at[i]));
    }
  } else {
    throw InputError(fmt::format(
        "{}: tensor '{}' is of {}; F32, BF16, F16 and F8_E4M3 are read", path_, name, e.type));
  }
  return values;
}

uint32_t SafetensorsFile::checksum() const {
  return crc32c(std::as_bytes(std::span(data_, static_cast<size_t>(size_))));
}

WrittenFile write_safetensors(const std::string& path,
                              std::span<const NamedTensor* const> tensors,
                              const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t at = 0;
  const auto bytes_of = [](const NamedTensor& t) {
    return std::as_bytes(std::span(t.values)).size() + std::as_bytes(std::span(t.whole)).size();
  };
  for (const NamedTensor* t : tensors) {
    const auto bytes = static_cast<int64_t>(bytes_of(*t));
    header[t->name] = {{"dtype", t->whole.empty() ? "F32" : "I64"},
                       {"shape", t->shape},
                       {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  const auto length = static_cast<uint64_t>(text.size());

  NewFile file(path);
  WrittenFile written;
  const auto put = [&](std::span<const std::byte> bytes) {
    written.checksum = crc32c(bytes, written.checksum);
    written.bytes += static_cast<int64_t>(bytes.size());
    file.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  };
  put(std::as_bytes(std::span(&length, 1)));
  put(std::as_bytes(std::span(text)));
  for (const NamedTensor* t : tensors) {
    put(std::as_bytes(std::span(t->values)));
    put(std::as_bytes(std::span(t->whole)));
  }
  file.commit(/*to_disk=*/true);
  return written;
}

}  // namespace rehearse
