#pragma once
// Recorded routing: which experts every token of some micro-batches chose, layer by layer. HDF5, so
// that Python reads it too: a dataset `choices`, uint16 [micro_batches, layers, tokens, active] of
// expert indices (layers: those with experts, first first), attributes `format` ("rehearse-routing
// 1") and `experts`.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rehearse {

struct RoutingShape {
  int64_t micro_batches = 0, layers = 0, tokens = 0, active = 0, experts = 0;
  bool operator==(const RoutingShape&) const = default;
};

// Writes beside `path`; finish() renames over it. Throws InputError when the file cannot be
// written.
class RoutingWriter {
 public:
  RoutingWriter(const std::string& path, const RoutingShape& shape);
  ~RoutingWriter();  // what was not finished is removed
  // choices: [tokens, active]
  void write(int64_t micro_batch, int64_t layer, std::span<const int32_t> choices);
  void finish();

 private:
  struct File;
  std::unique_ptr<File> file_;
};

// Throws InputError for anything that is not such a file, and for choices that are no experts.
class RoutingReader {
 public:
  explicit RoutingReader(const std::string& path);
  ~RoutingReader();
  const RoutingShape& shape() const;
  std::vector<int32_t> read(int64_t micro_batch, int64_t layer) const;  // [tokens, active]

 private:
  struct File;
  std::unique_ptr<File> file_;
};

}  // namespace rehearse
