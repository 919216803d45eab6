#include "runtime/checkpoints/tensor_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"

namespace rehearse {

TensorFiles::TensorFiles(const std::vector<std::string>& paths) {
  if (!paths.empty()) path_ = paths.front();
  for (const std::string& path : paths) {
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    for (const auto& [name, entry] : files_.back()->entries()) {
      const auto [at, fresh] = tensors_.emplace(name, Tensor{files_.back().get(), &entry});
      if (fresh) continue;
      throw InputError(
          fmt::format("{}: tensor '{}' is in {} too", path, name, at->second.file->path()));
    }
  }
}

std::vector<float> TensorFiles::read(const std::string& name, const std::vector<int64_t>& shape) {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) {
    throw InputError(fmt::format("{}: no tensor '{}', which the model has", path_, name));
  }
  const auto& [file, entry] = at->second;
  if (entry->shape != shape) {
    throw InputError(fmt::format("{}: tensor '{}' is [{}]; the plan's model has [{}]",
                                 file->path(),
                                 name,
                                 fmt::join(entry->shape, ", "),
                                 fmt::join(shape, ", ")));
  }
  used_.insert(name);
  return file->read(name);
}

void TensorFiles::require_all_read() const {
  if (used_.size() == tensors_.size()) return;
  for (const auto& [name, tensor] : tensors_) {
    if (used_.contains(name)) continue;
    throw InputError(fmt::format("{}: tensor '{}' is not of the plan's model, and {} more",
                                 tensor.file->path(),
                                 name,
                                 tensors_.size() - used_.size() - 1));
  }
}

}  // namespace rehearse
