#include "runtime/memory/flat_values.h"

#include <algorithm>

namespace rehearse {

FlatValues::~FlatValues() {
  if (data_ != nullptr) memory_->release(data_);
}

void FlatValues::resize(int64_t size) {
  CHECK(!is_scaled(type_)) << "flat values have no scales";
  if (size == size_) return;
  const auto bytes = [&](int64_t n) { return static_cast<size_t>(n * element_bytes(type_)); };
  std::byte* data = nullptr;
  if (size > 0) {
    data = memory_->allocate(bytes(size));
    const int64_t kept = std::min(size, size_);
    if (kept > 0) {
      std::vector<std::byte> values(bytes(kept));
      memory_->read(data_, values.data(), values.size());
      memory_->write(values.data(), data, values.size());
    }
    memory_->clear(data + bytes(kept), bytes(size - kept));
  }
  if (data_ != nullptr) memory_->release(data_);
  data_ = data;
  size_ = size;
}

void FlatValues::clear() {
  memory_->clear(data_, static_cast<size_t>(size_ * element_bytes(type_)));
}

std::vector<float> FlatValues::get(int64_t begin, int64_t count) const {
  std::vector<float> values(static_cast<size_t>(count));
  get(begin, values);
  return values;
}

void FlatValues::get(int64_t begin, std::span<float> to) const {
  const ConstArray part = array(begin, static_cast<int64_t>(to.size()), 1);
  if (memory_->on_host()) return convert(part, to);
  std::vector<std::byte> here(part.extent.buffer_bytes());
  memory_->read(part.data, here.data(), here.size());
  convert({part.extent, here.data()}, to);
}

void FlatValues::set(int64_t begin, std::span<const float> values) {
  const Array part = array(begin, static_cast<int64_t>(values.size()), 1);
  if (memory_->on_host()) return convert(values, part);
  std::vector<std::byte> here(part.extent.buffer_bytes());
  convert(values, {part.extent, here.data()});
  memory_->write(here.data(), part.data, here.size());
}

}  // namespace rehearse
