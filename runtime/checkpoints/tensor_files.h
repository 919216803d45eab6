#pragma once
// The tensors of some safetensors files, by name, and which of them were asked for.

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/checkpoints/safetensors.h"

namespace rehearse {

class TensorFiles {
 public:
  struct Tensor {
    const SafetensorsFile* file = nullptr;
    const SafetensorsFile::Entry* entry = nullptr;
  };

  // Throws InputError where a tensor is in two files.
  explicit TensorFiles(const std::vector<std::string>& paths);

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  // Whole, as FP32. Throws InputError where it is missing or of another shape.
  std::vector<float> read(const std::string& name, const std::vector<int64_t>& shape);
  // Throws InputError where some were not read.
  void require_all_read() const;
  // For messages: of the first file.
  const std::string& path() const { return path_; }

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Tensor> tensors_;
  std::set<std::string> used_;
  std::string path_ = "no file";
};

}  // namespace rehearse
