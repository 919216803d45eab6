#pragma once
// safetensors files: a JSON header of names, types, shapes and places, then the tensors' bytes.
// Source: the format's description in the safetensors repository.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "runtime/step/named_tensor.h"

namespace rehearse {

// A file that is read piece by piece.
class SafetensorsFile {
 public:
  struct Entry {
    std::string type;  // F32, BF16, F16, I64, ...
    std::vector<int64_t> shape;
    int64_t begin = 0, end = 0;  // bytes of the file
  };

  // Reads the header and checks it against the file: sizes that belong to types and shapes, places
  // that follow each other without a gap to the file's end, names once. Throws InputError.
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // As FP32; of F8_E4M3 the codes' values, whose scales are another tensor. REQUIRES: an entry.
  // Throws InputError for types other than F32, BF16, F16 and F8_E4M3.
  std::vector<float> read(const std::string& name) const;
  // `count` of its elements from the `first` on. REQUIRES: that it has them.
  std::vector<float> read(const std::string& name, int64_t first, int64_t count) const;
  // CRC-32C of all of the file.
  uint32_t checksum() const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;  // the file, mapped
  size_t size_ = 0;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

struct WrittenFile {
  int64_t bytes = 0;
  uint32_t checksum = 0;  // CRC-32C
};
// Writes F32 and I64 tensors beside `path`, to the disk, and renames. Throws InputError; nothing is
// then left.
WrittenFile write_safetensors(const std::string& path,
                              std::span<const NamedTensor* const> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace rehearse
