#pragma once
// A flat array of a rank's, of any type but FP8, that stays from step to step: weights, gradients,
// moments, counts.

#include <span>
#include <utility>
#include <vector>

#include "runtime/memory/array.h"
#include "runtime/memory/memory.h"

namespace rehearse {

// Move-only.
class FlatValues {
 public:
  // Values are 0. The memory must outlive them.
  explicit FlatValues(DType type = DType::kFp32, int64_t size = 0, Memory& memory = host_memory())
      : memory_(&memory), type_(type) {
    resize(size);
  }
  FlatValues(FlatValues&& other) noexcept { swap(other); }
  FlatValues& operator=(FlatValues&& other) noexcept {
    FlatValues taken(std::move(other));
    swap(taken);
    return *this;
  }
  ~FlatValues();
  void resize(int64_t size);  // new values are 0

  DType type() const { return type_; }
  bool empty() const { return size_ == 0; }
  int64_t size() const { return size_; }
  // `rows` x `columns` of them from `begin` on.
  Array array(int64_t begin, int64_t rows, int64_t columns) {
    return {{type_, rows, columns}, at(begin)};
  }
  ConstArray array(int64_t begin, int64_t rows, int64_t columns) const {
    return {{type_, rows, columns}, at(begin)};
  }
  // All of them, one column.
  Array array() { return array(0, size_, 1); }
  ConstArray array() const { return array(0, size_, 1); }

  // Between steps, on the host. Floating-point values in FP32; set rounds.
  void get(int64_t begin, std::span<float> to) const;
  std::vector<float> get(int64_t begin, int64_t count) const;
  void set(int64_t begin, std::span<const float> values);
  // All of them, as they are. T is of the type's size.
  template <typename T>
  std::vector<T> values() const {
    CHECK(sizeof(T) == static_cast<size_t>(element_bytes(type_))) << to_string(array().extent);
    std::vector<T> all(static_cast<size_t>(size_));
    memory_->read(data_, all.data(), all.size() * sizeof(T));
    return all;
  }
  template <typename T>
  void set_values(std::span<const T> all) {
    CHECK(sizeof(T) == static_cast<size_t>(element_bytes(type_)) && std::ssize(all) == size_)
        << to_string(array().extent);
    memory_->write(all.data(), data_, all.size_bytes());
  }
  void clear();  // to zeros

 private:
  std::byte* at(int64_t begin) const { return data_ + begin * element_bytes(type_); }
  void swap(FlatValues& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(type_, other.type_);
    std::swap(size_, other.size_);
    std::swap(data_, other.data_);
  }

  Memory* memory_ = nullptr;
  DType type_ = DType::kFp32;
  int64_t size_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace rehearse
