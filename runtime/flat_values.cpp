#include "runtime/flat_values.h"

namespace rehearse {

void FlatValues::resize(int64_t size) {
  CHECK(type_ != DType::kFp8) << "flat values have no scales";
  if (type_ == DType::kBf16) {
    narrow_.resize(static_cast<size_t>(size));
  } else {
    wide_.resize(static_cast<size_t>(size), 0.0f);
  }
}

std::vector<float> FlatValues::get(int64_t begin, int64_t count) const {
  std::vector<float> values(static_cast<size_t>(count));
  get(begin, values);
  return values;
}

void FlatValues::get(int64_t begin, std::span<float> to) const {
  convert(array(begin, static_cast<int64_t>(to.size()), 1), to);
}

void FlatValues::set(int64_t begin, std::span<const float> values) {
  convert(values, array(begin, static_cast<int64_t>(values.size()), 1));
}

}  // namespace rehearse
