#include "plan/routing/routing_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <hdf5.h>
#include <zlib.h>

#include "base/errors.h"
#include "base/file.h"

namespace rehearse {
namespace {

constexpr const char* kFormat = "rehearse-routing 1";

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
void silence() {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}", path, what));
}

struct Slab {
  hsize_t start[4];
  hsize_t count[4];
};
Slab slab_of(const RoutingShape& s, int64_t micro_batch, int64_t layer) {
  CHECK(micro_batch >= 0 && micro_batch < s.micro_batches && layer >= 0 && layer < s.layers)
      << micro_batch << " " << layer;
  return {{static_cast<hsize_t>(micro_batch), static_cast<hsize_t>(layer), 0, 0},
          {1, 1, static_cast<hsize_t>(s.tokens), static_cast<hsize_t>(s.active)}};
}

}  // namespace

struct RoutingWriter::File {
  std::string path;
  RoutingShape shape;
  Handle file{-1, H5Fclose}, data{-1, H5Dclose};
};

RoutingWriter::RoutingWriter(const std::string& path, const RoutingShape& shape)
    : file_(std::make_unique<File>()) {
  silence();
  require_writable(path);
  File& f = *file_;
  f.path = path;
  f.shape = shape;
  // In memory until finish(): HDF5 itself does not survive a disk that fills up.
  constexpr size_t kGrowth = 1 << 20;  // bytes
  const Handle in_memory(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fapl_core(in_memory.id(), kGrowth, /*backing_store=*/false);
  f.file = {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, in_memory.id()), H5Fclose};
  if (!f.file.good()) fail(path, "cannot be written");
  const hsize_t extent[4] = {static_cast<hsize_t>(shape.micro_batches),
                             static_cast<hsize_t>(shape.layers),
                             static_cast<hsize_t>(shape.tokens),
                             static_cast<hsize_t>(shape.active)};
  const hsize_t chunk[4] = {1, 1, extent[2], extent[3]};
  const Handle space(H5Screate_simple(4, extent, nullptr), H5Sclose);
  const Handle how(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_chunk(how.id(), 4, chunk);
  H5Pset_shuffle(how.id());
  H5Pset_deflate(how.id(), 4);
  H5Pset_fletcher32(how.id());
  f.data = {
      H5Dcreate2(
          f.file.id(), "choices", H5T_STD_U16LE, space.id(), H5P_DEFAULT, how.id(), H5P_DEFAULT),
      H5Dclose};
  if (!f.data.good()) fail(path, "cannot be written");
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle text(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(text.id(), std::strlen(kFormat));
  const Handle format(
      H5Acreate2(f.data.id(), "format", text.id(), scalar.id(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  const Handle experts(
      H5Acreate2(f.data.id(), "experts", H5T_STD_I64LE, scalar.id(), H5P_DEFAULT, H5P_DEFAULT),
      H5Aclose);
  if (H5Awrite(format.id(), text.id(), kFormat) < 0 ||
      H5Awrite(experts.id(), H5T_NATIVE_INT64, &shape.experts) < 0) {
    fail(path, "cannot be written");
  }
}

RoutingWriter::~RoutingWriter() {
  file_->data.reset();
  file_->file.reset();
}

void RoutingWriter::write(int64_t micro_batch, int64_t layer, std::span<const int32_t> choices) {
  const File& f = *file_;
  CHECK(static_cast<int64_t>(choices.size()) == f.shape.tokens * f.shape.active) << choices.size();
  const Slab slab = slab_of(f.shape, micro_batch, layer);
  const Handle space(H5Dget_space(f.data.id()), H5Sclose);
  H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, slab.start, nullptr, slab.count, nullptr);
  const Handle memory(H5Screate_simple(4, slab.count, nullptr), H5Sclose);
  if (H5Dwrite(
          f.data.id(), H5T_NATIVE_INT32, memory.id(), space.id(), H5P_DEFAULT, choices.data()) <
      0) {
    fail(f.path, "cannot be written");
  }
}

void RoutingWriter::finish() {
  File& f = *file_;
  f.data.reset();
  const bool flushed = H5Fflush(f.file.id(), H5F_SCOPE_GLOBAL) >= 0;
  const ssize_t size = flushed ? H5Fget_file_image(f.file.id(), nullptr, 0) : -1;
  std::string image(static_cast<size_t>(std::max<ssize_t>(size, 0)), '\0');
  if (size <= 0 || H5Fget_file_image(f.file.id(), image.data(), image.size()) != size) {
    fail(f.path, "cannot be written");
  }
  f.file.reset();
  write_file(f.path, image);
}

namespace {

void require_format(hid_t data, const std::string& path) {
  const Handle format(H5Aopen(data, "format", H5P_DEFAULT), H5Aclose);
  std::string found;
  if (format.good()) {
    const Handle type(H5Aget_type(format.id()), H5Tclose);
    const size_t size = H5Tget_size(type.id());
    constexpr size_t kLongest = 200;
    const bool fixed = H5Tget_class(type.id()) == H5T_STRING && H5Tis_variable_str(type.id()) == 0;
    if (fixed && size <= kLongest) {
      found.resize(size);
      if (H5Aread(format.id(), type.id(), found.data()) < 0) found.clear();
      found = found.substr(0, found.find('\0'));
    } else if (H5Tis_variable_str(type.id()) > 0) {  // as h5py writes them
      char* text = nullptr;
      if (H5Aread(format.id(), type.id(), &text) >= 0 && text != nullptr) {
        found = std::string(text).substr(0, kLongest);
        H5free_memory(text);
      }
    }
  }
  if (found == kFormat) return;
  fail(path,
       fmt::format("'choices' has {}; expected the attribute format: '{}'",
                   format.good() ? fmt::format("the format '{}'", found) : "no attribute 'format'",
                   kFormat));
}

// How chunks are stored: HDF5 takes it on trust that they unpack to their size, and reads on behind
// them where they do not.
struct Chunks {
  bool chunked = false;
  hsize_t extent[4] = {1, 1, 1, 1};
  size_t bytes = 0;                  // of each, unpacked
  std::optional<unsigned> deflated;  // index of that filter
  std::optional<unsigned> checksum;  // likewise; it comes last, behind the data
  std::string path;
  hsize_t before = 0;  // bytes of the file before HDF5's own

  bool whole(hid_t data, const hsize_t* offset) const;
};

bool Chunks::whole(hid_t data, const hsize_t* offset) const {
  uint32_t skipped = 0;
  haddr_t at = 0;
  hsize_t size = 0;
  if (H5Dget_chunk_info_by_coord(data, offset, &skipped, &at, &size) < 0) return false;
  constexpr hsize_t kChecksum = 4;
  const bool checked = checksum && (skipped >> *checksum & 1) == 0;
  if (checked && size < kChecksum) return false;
  if (checked) size -= kChecksum;
  // What deflating does not make smaller it makes little larger.
  if (size == 0 || size > 2 * bytes + 1024) return false;
  // As it lies in the file: HDF5's own way to read it takes the size on trust too.
  std::string packed(size, '\0');
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at + before));
  if (!file.read(packed.data(), static_cast<std::streamsize>(size))) return false;
  if (!deflated || (skipped >> *deflated & 1) != 0) return size == bytes;
  std::string unpacked(bytes, '\0');
  uLongf got = bytes;
  return uncompress(reinterpret_cast<Bytef*>(unpacked.data()),
                    &got,
                    reinterpret_cast<const Bytef*>(packed.data()),
                    size) == Z_OK &&
         got == bytes;
}

}  // namespace

struct RoutingReader::File {
  std::string path;
  RoutingShape shape;
  Chunks chunks;
  std::set<std::array<hsize_t, 4>> whole;  // offsets of those that are known to be
  Handle file{-1, H5Fclose}, data{-1, H5Dclose};
};

RoutingReader::RoutingReader(const std::string& path) : file_(std::make_unique<File>()) {
  silence();
  File& f = *file_;
  f.path = path;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail(path, "no such file");
  f.file = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose};
  if (!f.file.good()) fail(path, "is not an HDF5 file, or was cut off");
  f.data = {H5Dopen2(f.file.id(), "choices", H5P_DEFAULT), H5Dclose};
  if (!f.data.good()) fail(path, "has no dataset 'choices': not recorded routing");
  const Handle space(H5Dget_space(f.data.id()), H5Sclose);
  const Handle type(H5Dget_type(f.data.id()), H5Tclose);
  hsize_t extent[4] = {};
  if (H5Sget_simple_extent_ndims(space.id()) != 4 ||
      H5Sget_simple_extent_dims(space.id(), extent, nullptr) != 4 ||
      H5Tget_class(type.id()) != H5T_INTEGER) {
    fail(path, "'choices' is not of whole numbers [micro_batches, layers, tokens, active]");
  }
  constexpr hsize_t kMost = 1 << 26;
  for (const hsize_t n : extent) {
    if (n == 0 || n > kMost) fail(path, fmt::format("'choices' has an extent of {}", n));
  }
  if (extent[2] * extent[3] > kMost)
    fail(path, "has micro-batches of more than 67 million choices");
  // HDF5 takes a chunk's size on trust: a damaged one must not become the memory it asks for.
  constexpr size_t kMostBytes = 8;
  const Handle how(H5Dget_create_plist(f.data.id()), H5Pclose);
  hsize_t chunk[4] = {1, 1, 1, 1};
  const bool chunked = H5Pget_layout(how.id()) == H5D_CHUNKED;
  const bool readable = !chunked || H5Pget_chunk(how.id(), 4, chunk) == 4;
  hsize_t of_chunk = 1;
  for (const hsize_t n : chunk) of_chunk *= std::min(n, kMost);
  if (!readable || H5Tget_size(type.id()) > kMostBytes ||
      !std::equal(chunk, chunk + 4, extent, std::less_equal<>()) || of_chunk > kMost) {
    fail(path, "'choices' has chunks larger than itself or numbers of more than 64 bits");
  }
  f.chunks.chunked = chunked;
  f.chunks.path = path;
  const Handle creation(H5Fget_create_plist(f.file.id()), H5Pclose);
  H5Pget_userblock(creation.id(), &f.chunks.before);
  std::copy_n(chunk, 4, f.chunks.extent);
  f.chunks.bytes = of_chunk * H5Tget_size(type.id());
  const int filters = chunked ? H5Pget_nfilters(how.id()) : 0;
  for (int i = 0; i < filters; ++i) {
    size_t values = 0;
    unsigned flags = 0, config = 0;
    const auto index = static_cast<unsigned>(i);
    const H5Z_filter_t filter =
        H5Pget_filter2(how.id(), index, &flags, &values, nullptr, 0, nullptr, &config);
    if (filter == H5Z_FILTER_DEFLATE) f.chunks.deflated = index;
    if (filter == H5Z_FILTER_FLETCHER32) f.chunks.checksum = index;
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE &&
        (filter != H5Z_FILTER_FLETCHER32 || i + 1 < filters)) {
      fail(path,
           fmt::format("'choices' is packed by HDF5's filter {}; expected shuffle, deflate (gzip) "
                       "and fletcher32, or some of them",
                       filter));
    }
  }
  // Every row was written: no chunk is missing.
  hsize_t wanted = 1;
  for (size_t i = 0; i < 4; ++i) wanted *= (extent[i] + chunk[i] - 1) / chunk[i];
  hsize_t written = 0;
  if (chunked && (H5Dget_num_chunks(f.data.id(), space.id(), &written) < 0 || written != wanted)) {
    fail(path,
         fmt::format("'choices' has {} of its {} chunks: not all was written", written, wanted));
  }
  if (H5Dget_storage_size(f.data.id()) > std::filesystem::file_size(path, error)) {
    fail(path, "'choices' takes more room than the file has: it was damaged or cut off");
  }
  f.shape = {static_cast<int64_t>(extent[0]),
             static_cast<int64_t>(extent[1]),
             static_cast<int64_t>(extent[2]),
             static_cast<int64_t>(extent[3]),
             0};
  require_format(f.data.id(), path);
  const Handle experts(H5Aopen(f.data.id(), "experts", H5P_DEFAULT), H5Aclose);
  if (!experts.good() || H5Aread(experts.id(), H5T_NATIVE_INT64, &f.shape.experts) < 0 ||
      f.shape.experts < 1 || f.shape.experts > 65536) {
    fail(path, "'choices' has no attribute 'experts' from 1 to 65536");
  }
}

RoutingReader::~RoutingReader() = default;

const RoutingShape& RoutingReader::shape() const {
  return file_->shape;
}

std::vector<int32_t> RoutingReader::read(int64_t micro_batch, int64_t layer) const {
  File& f = *file_;
  std::vector<int32_t> choices(static_cast<size_t>(f.shape.tokens * f.shape.active));
  const Slab slab = slab_of(f.shape, micro_batch, layer);
  const hsize_t* chunk = f.chunks.extent;
  for (hsize_t t = 0; f.chunks.chunked && t < slab.count[2]; t += chunk[2]) {
    for (hsize_t a = 0; a < slab.count[3]; a += chunk[3]) {
      const std::array<hsize_t, 4> offset = {
          slab.start[0] / chunk[0] * chunk[0], slab.start[1] / chunk[1] * chunk[1], t, a};
      if (f.whole.contains(offset)) continue;
      if (f.chunks.whole(f.data.id(), offset.data())) {
        f.whole.insert(offset);
        continue;
      }
      fail(f.path,
           fmt::format("micro-batch {} of layer {} is damaged: its data do not unpack to {} bytes",
                       micro_batch,
                       layer,
                       f.chunks.bytes));
    }
  }
  const Handle space(H5Dget_space(f.data.id()), H5Sclose);
  H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, slab.start, nullptr, slab.count, nullptr);
  const Handle memory(H5Screate_simple(4, slab.count, nullptr), H5Sclose);
  if (H5Dread(f.data.id(), H5T_NATIVE_INT32, memory.id(), space.id(), H5P_DEFAULT, choices.data()) <
      0) {
    fail(f.path, fmt::format("micro-batch {} of layer {} cannot be read", micro_batch, layer));
  }
  const auto active = static_cast<size_t>(f.shape.active);
  std::vector<int32_t> sorted(active);
  for (size_t first = 0; first < choices.size(); first += active) {
    const auto bad = [&](const std::string& what) {
      fail(f.path,
           fmt::format("token {} of micro-batch {} of layer {} {}",
                       first / active,
                       micro_batch,
                       layer,
                       what));
    };
    std::copy_n(choices.begin() + static_cast<int64_t>(first), active, sorted.begin());
    std::ranges::sort(sorted);
    if (sorted.front() < 0 || sorted.back() >= f.shape.experts) {
      bad(fmt::format("chooses expert {} of {}",
                      sorted.front() < 0 ? sorted.front() : sorted.back(),
                      f.shape.experts));
    }
    const auto twice = std::ranges::adjacent_find(sorted);
    if (twice != sorted.end()) bad(fmt::format("chooses expert {} twice", *twice));
  }
  return choices;
}

}  // namespace rehearse
