#pragma once
// What the writer and the reader of recorded routing share of HDF5.

#include <string>
#include <utility>

#include <fmt/format.h>
#include <hdf5.h>

#include "base/errors.h"
#include "plan/routing/routing_file.h"

namespace rehearse::hdf5 {

inline constexpr const char* kFormat = "rehearse-routing 2";
inline constexpr const char* kFirstFormat = "rehearse-routing 1";

// An HDF5 identifier and how it is closed.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Handle() { reset(); }
  void reset() {
    if (id_ >= 0) close_(id_);
    id_ = -1;
  }
  bool good() const { return id_ >= 0; }
  hid_t id() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

// Errors are ours to tell.
inline void silence() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

[[noreturn]] inline void fail(const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}", path, what));
}

struct Slab {
  hsize_t start[4];
  hsize_t count[4];
};
// row: of all steps' micro-batches.
inline Slab slab_of(const RoutingShape& s, int64_t row, int64_t layer) {
  return {{static_cast<hsize_t>(row), static_cast<hsize_t>(layer), 0, 0},
          {1, 1, static_cast<hsize_t>(s.tokens), static_cast<hsize_t>(s.active)}};
}

}  // namespace rehearse::hdf5
