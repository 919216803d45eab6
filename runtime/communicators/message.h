#pragma once
// Elements under way between ranks: of one type, with their scales, in memory of their own.

#include <memory>

#include "runtime/memory/array.h"

namespace rehearse {

// Move-only; the contents of a new one are undefined.
class Message {
 public:
  Message() = default;  // no elements
  explicit Message(const Extent& e)
      : extent_(e), buffer_(std::make_unique_for_overwrite<std::byte[]>(e.buffer_bytes())) {}
  explicit Message(const ConstArray& a) : Message(a.extent) { copy(a, array()); }

  const Extent& extent() const { return extent_; }
  int64_t rows() const { return extent_.rows; }
  // What travels of it.
  Bytes bytes() const { return extent_.bytes(); }

  Array array() { return Array::in_buffer(extent_, buffer_.get()); }
  ConstArray array() const { return ConstArray::in_buffer(extent_, buffer_.get()); }
  // The elements of an FP32 message. Throw InternalError for one of another type.
  float* fp32() { return array().fp32(); }
  const float* fp32() const { return array().fp32(); }

 private:
  Extent extent_;
  std::unique_ptr<std::byte[]> buffer_;
};

}  // namespace rehearse
