// RoutingReader: every figure of a file is checked, since HDF5 takes much on trust.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <optional>
#include <set>

#include <zlib.h>

#include "base/call_files.h"
#include "plan/routing/hdf5_file.h"

namespace rehearse {

using namespace hdf5;

namespace {

// A text attribute, of at most so many characters; nothing where there is none.
std::optional<std::string> text_attribute(hid_t object, const char* name) {
  if (H5Aexists(object, name) <= 0) return std::nullopt;
  const Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  if (!attribute.good()) return std::nullopt;
  std::string found;
  const Handle type(H5Aget_type(attribute.id()), H5Tclose);
  const size_t size = H5Tget_size(type.id());
  constexpr size_t kLongest = 1000;
  const bool fixed = H5Tget_class(type.id()) == H5T_STRING && H5Tis_variable_str(type.id()) == 0;
  if (fixed && size <= kLongest) {
    found.resize(size);
    if (H5Aread(attribute.id(), type.id(), found.data()) < 0) found.clear();
    found = found.substr(0, found.find('\0'));
  } else if (H5Tis_variable_str(type.id()) > 0) {  // as h5py writes them
    char* text = nullptr;
    if (H5Aread(attribute.id(), type.id(), &text) >= 0 && text != nullptr) {
      found = std::string(text).substr(0, kLongest);
      H5free_memory(text);
    }
  }
  return found;
}

void require_format(hid_t data, const std::string& path) {
  const std::optional<std::string> found = text_attribute(data, "format");
  if (found == kFormat || found == kFirstFormat) return;
  fail(path,
       fmt::format("'choices' has {}; expected the attribute format: '{}'",
                   found ? fmt::format("the format '{}'", *found) : "no attribute 'format'",
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

constexpr hsize_t kMostExtent = 1 << 26;

// A dataset [rows, layers, tokens, active], checked so that what it holds can be read.
struct Table {
  Table(const std::string& path, const Handle& file, const char* name, H5T_class_t kind);
  // Row and layer, as the memory type has it.
  void read(const RoutingShape& s, int64_t row, int64_t layer, hid_t type, void* to);

  std::string path, name;
  hsize_t extent[4] = {};
  Chunks chunks;
  std::set<std::array<hsize_t, 4>> whole;  // offsets of those that are known to be
  Handle data{-1, H5Dclose};
};

Table::Table(const std::string& path_, const Handle& file, const char* name_, H5T_class_t kind)
    : path(path_), name(name_), data(H5Dopen2(file.id(), name_, H5P_DEFAULT), H5Dclose) {
  if (!data.good()) fail(path, fmt::format("has no dataset '{}': not recorded routing", name));
  const Handle space(H5Dget_space(data.id()), H5Sclose);
  const Handle type(H5Dget_type(data.id()), H5Tclose);
  if (H5Sget_simple_extent_ndims(space.id()) != 4 ||
      H5Sget_simple_extent_dims(space.id(), extent, nullptr) != 4 ||
      H5Tget_class(type.id()) != kind) {
    fail(path,
         fmt::format("'{}' is not of {} [steps x micro_batches, layers, tokens, active]",
                     name,
                     kind == H5T_INTEGER ? "whole numbers" : "numbers"));
  }
  for (const hsize_t n : extent) {
    if (n == 0 || n > kMostExtent) fail(path, fmt::format("'{}' has an extent of {}", name, n));
  }
  if (extent[2] * extent[3] > kMostExtent)
    fail(path, "has micro-batches of more than 67 million choices");
  // HDF5 takes a chunk's size on trust: a damaged one must not become the memory it asks for.
  constexpr size_t kMostBytes = 8;
  const Handle how(H5Dget_create_plist(data.id()), H5Pclose);
  hsize_t chunk[4] = {1, 1, 1, 1};
  const bool chunked = H5Pget_layout(how.id()) == H5D_CHUNKED;
  const bool readable = !chunked || H5Pget_chunk(how.id(), 4, chunk) == 4;
  hsize_t of_chunk = 1;
  for (const hsize_t n : chunk) of_chunk *= std::min(n, kMostExtent);
  if (!readable || H5Tget_size(type.id()) > kMostBytes ||
      !std::equal(chunk, chunk + 4, extent, std::less_equal<>()) || of_chunk > kMostExtent) {
    fail(path,
         fmt::format("'{}' has chunks larger than itself or numbers of more than 64 bits", name));
  }
  chunks.chunked = chunked;
  chunks.path = path;
  const Handle creation(H5Fget_create_plist(file.id()), H5Pclose);
  H5Pget_userblock(creation.id(), &chunks.before);
  std::copy_n(chunk, 4, chunks.extent);
  chunks.bytes = of_chunk * H5Tget_size(type.id());
  const int filters = chunked ? H5Pget_nfilters(how.id()) : 0;
  for (int i = 0; i < filters; ++i) {
    size_t values = 0;
    unsigned flags = 0, config = 0;
    const auto index = static_cast<unsigned>(i);
    const H5Z_filter_t filter =
        H5Pget_filter2(how.id(), index, &flags, &values, nullptr, 0, nullptr, &config);
    if (filter == H5Z_FILTER_DEFLATE) chunks.deflated = index;
    if (filter == H5Z_FILTER_FLETCHER32) chunks.checksum = index;
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE &&
        (filter != H5Z_FILTER_FLETCHER32 || i + 1 < filters)) {
      fail(path,
           fmt::format("'{}' is packed by HDF5's filter {}; expected shuffle, deflate (gzip) "
                       "and fletcher32, or some of them",
                       name,
                       filter));
    }
  }
  // Every row was written: no chunk is missing.
  hsize_t wanted = 1;
  for (size_t i = 0; i < 4; ++i) wanted *= (extent[i] + chunk[i] - 1) / chunk[i];
  hsize_t written = 0;
  if (chunked && (H5Dget_num_chunks(data.id(), space.id(), &written) < 0 || written != wanted)) {
    fail(path,
         fmt::format("'{}' has {} of its {} chunks: not all was written", name, written, wanted));
  }
  std::error_code error;
  if (H5Dget_storage_size(data.id()) > std::filesystem::file_size(path, error)) {
    fail(path,
         fmt::format("'{}' takes more room than the file has: it was damaged or cut off", name));
  }
}

void Table::read(const RoutingShape& s, int64_t row, int64_t layer, hid_t type, void* to) {
  const Slab slab = slab_of(s, row, layer);
  const auto damaged = [&](const std::string& what) {
    fail(path, fmt::format("micro-batch {} of layer {} {}", row % s.micro_batches, layer, what));
  };
  const hsize_t* chunk = chunks.extent;
  for (hsize_t t = 0; chunks.chunked && t < slab.count[2]; t += chunk[2]) {
    for (hsize_t a = 0; a < slab.count[3]; a += chunk[3]) {
      const std::array<hsize_t, 4> offset = {
          slab.start[0] / chunk[0] * chunk[0], slab.start[1] / chunk[1] * chunk[1], t, a};
      if (whole.contains(offset)) continue;
      if (!chunks.whole(data.id(), offset.data())) {
        damaged(fmt::format("is damaged: its data do not unpack to {} bytes", chunks.bytes));
      }
      whole.insert(offset);
    }
  }
  const Handle space(H5Dget_space(data.id()), H5Sclose);
  H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, slab.start, nullptr, slab.count, nullptr);
  const Handle memory(H5Screate_simple(4, slab.count, nullptr), H5Sclose);
  if (H5Dread(data.id(), type, memory.id(), space.id(), H5P_DEFAULT, to) < 0) {
    damaged("cannot be read");
  }
}

bool get_attribute(hid_t object, const char* name, int64_t& value) {
  if (H5Aexists(object, name) <= 0) return false;
  const Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  if (!attribute.good()) return false;
  const Handle space(H5Aget_space(attribute.id()), H5Sclose);
  return H5Sget_simple_extent_npoints(space.id()) == 1 &&
         H5Aread(attribute.id(), H5T_NATIVE_INT64, &value) >= 0;
}

// A list in one piece.
std::vector<int64_t> read_list(const std::string& path, const Handle& file, const char* name) {
  const bool there = H5Lexists(file.id(), name, H5P_DEFAULT) > 0;
  const Handle data(there ? H5Dopen2(file.id(), name, H5P_DEFAULT) : -1, H5Dclose);
  const Handle space(data.good() ? H5Dget_space(data.id()) : -1, H5Sclose);
  const Handle how(data.good() ? H5Dget_create_plist(data.id()) : -1, H5Pclose);
  const Handle type(data.good() ? H5Dget_type(data.id()) : -1, H5Tclose);
  const hssize_t count = space.good() ? H5Sget_simple_extent_npoints(space.id()) : -1;
  std::error_code error;
  if (count < 0 || H5Pget_layout(how.id()) == H5D_CHUNKED ||
      H5Tget_class(type.id()) != H5T_INTEGER ||
      static_cast<uintmax_t>(count) > std::filesystem::file_size(path, error)) {
    fail(path, fmt::format("'{}' is no list of numbers in one piece", name));
  }
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  if (count > 0 &&
      H5Dread(data.id(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data()) < 0) {
    fail(path, fmt::format("'{}' cannot be read", name));
  }
  return numbers;
}

std::vector<int64_t> read_steps(const std::string& path, const Handle& file, int64_t count) {
  std::vector<int64_t> steps(static_cast<size_t>(count));
  std::iota(steps.begin(), steps.end(), 0);
  if (H5Lexists(file.id(), "steps", H5P_DEFAULT) <= 0) return steps;
  steps = read_list(path, file, "steps");
  if (static_cast<int64_t>(steps.size()) != count) {
    fail(path, fmt::format("'steps' has {} numbers of {} steps", steps.size(), count));
  }
  return steps;
}

}  // namespace

struct RoutingReader::File {
  std::string path;
  RoutingShape shape;
  Handle file{-1, H5Fclose};
  std::vector<int64_t> steps;
  std::optional<Table> choices, weights;

  int64_t row(int64_t micro_batch, int64_t layer, int64_t step) const {
    CHECK(micro_batch >= 0 && micro_batch < shape.micro_batches && layer >= 0 &&
          layer < shape.layers && step >= 0 && step < shape.steps)
        << micro_batch << " " << layer << " " << step;
    return step * shape.micro_batches + micro_batch;
  }
};

RoutingReader::RoutingReader(const std::string& path) : file_(std::make_unique<File>()) {
  silence();
  File& f = *file_;
  f.path = path;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail(path, "no such file");
  note_input(path);
  f.file = {H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose};
  if (!f.file.good()) fail(path, "is not an HDF5 file, or was cut off");
  f.choices.emplace(path, f.file, "choices", H5T_INTEGER);
  const auto extent = [&](size_t i) { return static_cast<int64_t>(f.choices->extent[i]); };
  f.shape = {.micro_batches = extent(0),
             .layers = extent(1),
             .tokens = extent(2),
             .active = extent(3),
             .experts = 0};
  const hid_t data = f.choices->data.id();
  require_format(data, path);
  if (!get_attribute(data, "experts", f.shape.experts) || f.shape.experts < 1 ||
      f.shape.experts > 65536) {
    fail(path, "'choices' has no attribute 'experts' from 1 to 65536");
  }
  int64_t per_step = 0;
  if (get_attribute(data, "micro_batches_per_step", per_step)) {
    if (per_step < 1 || extent(0) % per_step != 0) {
      fail(path,
           fmt::format("{} micro-batches are no steps of {} each (micro_batches_per_step)",
                       extent(0),
                       per_step));
    }
    f.shape.micro_batches = per_step;
    f.shape.steps = extent(0) / per_step;
  }
  f.steps = read_steps(path, f.file, f.shape.steps);
  if (H5Lexists(f.file.id(), "weights", H5P_DEFAULT) > 0) {
    f.weights.emplace(path, f.file, "weights", H5T_FLOAT);
    if (!std::equal(f.weights->extent, f.weights->extent + 4, f.choices->extent)) {
      fail(path, "'weights' has other extents than 'choices'");
    }
  }
}

RoutingReader::~RoutingReader() = default;

const RoutingShape& RoutingReader::shape() const {
  return file_->shape;
}
const std::vector<int64_t>& RoutingReader::steps() const {
  return file_->steps;
}
bool RoutingReader::has_weights() const {
  return file_->weights.has_value();
}
std::vector<int64_t> RoutingReader::numbers(const std::string& name) const {
  return read_list(file_->path, file_->file, name.c_str());
}
std::string RoutingReader::about(const std::string& attribute) const {
  return text_attribute(file_->file.id(), attribute.c_str()).value_or("");
}

std::vector<int32_t> RoutingReader::read(int64_t micro_batch, int64_t layer, int64_t step) const {
  File& f = *file_;
  std::vector<int32_t> choices(static_cast<size_t>(f.shape.choices()));
  f.choices->read(
      f.shape, f.row(micro_batch, layer, step), layer, H5T_NATIVE_INT32, choices.data());
  if (const std::string wrong = why_not_choices(choices, f.shape.active, f.shape.experts);
      !wrong.empty()) {
    const std::string of_step =
        f.shape.steps > 1 ? fmt::format(" of step {}", f.steps[static_cast<size_t>(step)]) : "";
    fail(f.path,
         fmt::format(fmt::runtime(wrong),
                     fmt::format("of micro-batch {} of layer {}{}", micro_batch, layer, of_step)));
  }
  return choices;
}

std::vector<float> RoutingReader::read_weights(int64_t micro_batch,
                                               int64_t layer,
                                               int64_t step) const {
  File& f = *file_;
  CHECK(f.weights.has_value()) << "no weights";
  std::vector<float> weights(static_cast<size_t>(f.shape.choices()));
  f.weights->read(
      f.shape, f.row(micro_batch, layer, step), layer, H5T_NATIVE_FLOAT, weights.data());
  const auto bad = std::ranges::find_if(weights, [](float w) { return !std::isfinite(w); });
  if (bad != weights.end()) {
    fail(f.path,
         fmt::format("token {} of micro-batch {} of layer {} has a weight of {}",
                     (bad - weights.begin()) / f.shape.active,
                     micro_batch,
                     layer,
                     *bad));
  }
  return weights;
}

std::string why_not_choices(std::span<const int32_t> choices, int64_t active, int64_t experts) {
  const auto width = static_cast<size_t>(active);
  // A set bit per expert of a token, cleared behind it.
  std::vector<char> seen(static_cast<size_t>(experts), 0);
  for (size_t first = 0; first < choices.size(); first += width) {
    const auto token = choices.subspan(first, width);
    for (const int32_t e : token) {
      if (e < 0 || e >= experts) {
        return fmt::format("token {} {{}} chooses expert {} of {}", first / width, e, experts);
      }
      if (std::exchange(seen[static_cast<size_t>(e)], 1) != 0) {
        return fmt::format("token {} {{}} chooses expert {} twice", first / width, e);
      }
    }
    for (const int32_t e : token) seen[static_cast<size_t>(e)] = 0;
  }
  return "";
}

}  // namespace rehearse
