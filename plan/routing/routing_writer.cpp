// RoutingWriter.

#include <algorithm>
#include <utility>
#include <vector>

#include <immintrin.h>

#include "base/file.h"
#include "plan/routing/hdf5_file.h"

namespace rehearse {

using namespace hdf5;

namespace {

// IEEE's half precision, which HDF5 1.10 has no name for.
Handle half_type() {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  constexpr size_t kSign = 15, kExponent = 10, kExponentBits = 5, kMantissaBits = 10;
  H5Tset_fields(type.id(), kSign, kExponent, kExponentBits, 0, kMantissaBits);
  H5Tset_precision(type.id(), 16);
  H5Tset_ebias(type.id(), 15);
  H5Tset_size(type.id(), 2);
  return type;
}

// Its bits, rounded to nearest, ties to even.
uint16_t half_of(float x) {
  return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}

Handle text_type(const std::string& text) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.id(), std::max<size_t>(1, text.size()));
  return type;
}
bool put_attribute(hid_t object, const char* name, const std::string& text) {
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle type = text_type(text);
  const Handle attribute(H5Acreate2(object, name, type.id(), scalar.id(), H5P_DEFAULT, H5P_DEFAULT),
                         H5Aclose);
  return H5Awrite(attribute.id(), type.id(), text.empty() ? "" : text.c_str()) >= 0;
}
bool put_attribute(hid_t object, const char* name, int64_t value) {
  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(
      H5Acreate2(object, name, H5T_STD_I64LE, scalar.id(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  return H5Awrite(attribute.id(), H5T_NATIVE_INT64, &value) >= 0;
}

}  // namespace

struct RoutingWriter::File {
  std::string path;
  RoutingShape shape;
  std::vector<int64_t> steps;
  Handle file{-1, H5Fclose}, choices{-1, H5Dclose}, weights{-1, H5Dclose};

  Handle table(const char* name, hid_t type, int deflate) const;
  void put(const Handle& data, hid_t type, const Slab& slab, const void* values) const;
};

// Of no step yet.
Handle RoutingWriter::File::table(const char* name, hid_t type, int deflate) const {
  const hsize_t extent[4] = {0,
                             static_cast<hsize_t>(shape.layers),
                             static_cast<hsize_t>(shape.tokens),
                             static_cast<hsize_t>(shape.active)};
  const hsize_t most[4] = {H5S_UNLIMITED, extent[1], extent[2], extent[3]};
  const hsize_t chunk[4] = {1, 1, extent[2], extent[3]};
  const Handle space(H5Screate_simple(4, extent, most), H5Sclose);
  const Handle how(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_chunk(how.id(), 4, chunk);
  H5Pset_obj_track_times(how.id(), false);  // the same bytes for the same trace
  if (deflate > 0) {  // choices are near to noise: more effort than 1 gains a per cent
    H5Pset_shuffle(how.id());
    H5Pset_deflate(how.id(), static_cast<unsigned>(deflate));
  }
  H5Pset_fletcher32(how.id());
  Handle data(H5Dcreate2(file.id(), name, type, space.id(), H5P_DEFAULT, how.id(), H5P_DEFAULT),
              H5Dclose);
  if (!data.good()) fail(path, "cannot be written");
  return data;
}

RoutingWriter::RoutingWriter(const std::string& path,
                             const RoutingShape& shape,
                             const std::map<std::string, std::string>& about,
                             bool weights,
                             int deflate)
    : file_(std::make_unique<File>()) {
  silence();
  require_writable(path);
  File& f = *file_;
  f.path = path;
  f.shape = shape;
  // In memory: HDF5 itself does not survive a disk that fills up, nor its file a kill.
  constexpr size_t kGrowth = 1 << 20;  // bytes
  const Handle in_memory(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fapl_core(in_memory.id(), kGrowth, /*backing_store=*/false);
  H5Pset_libver_bounds(in_memory.id(), H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST);  // see commit
  f.file = {H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, in_memory.id()), H5Fclose};
  if (!f.file.good()) fail(path, "cannot be written");
  f.choices = f.table("choices", H5T_STD_U16LE, deflate);
  if (weights) f.weights = f.table("weights", half_type().id(), 0);  // noise
  bool good = put_attribute(f.choices.id(), "format", kFormat) &&
              put_attribute(f.choices.id(), "experts", shape.experts) &&
              put_attribute(f.choices.id(), "micro_batches_per_step", shape.micro_batches);
  for (const auto& [name, text] : about) good &= put_attribute(f.file.id(), name.c_str(), text);
  if (!good) fail(path, "cannot be written");
}

RoutingWriter::~RoutingWriter() {
  file_->choices.reset();
  file_->weights.reset();
  file_->file.reset();
}

void RoutingWriter::begin_step(int64_t number) {
  File& f = *file_;
  f.steps.push_back(number);
  const hsize_t extent[4] = {f.steps.size() * static_cast<hsize_t>(f.shape.micro_batches),
                             static_cast<hsize_t>(f.shape.layers),
                             static_cast<hsize_t>(f.shape.tokens),
                             static_cast<hsize_t>(f.shape.active)};
  bool good = H5Dset_extent(f.choices.id(), extent) >= 0;
  if (f.weights.good()) good &= H5Dset_extent(f.weights.id(), extent) >= 0;
  if (!good) fail(f.path, "cannot be written");
}

void RoutingWriter::File::put(const Handle& data,
                              hid_t type,
                              const Slab& slab,
                              const void* values) const {
  const Handle space(H5Dget_space(data.id()), H5Sclose);
  H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, slab.start, nullptr, slab.count, nullptr);
  const Handle memory(H5Screate_simple(4, slab.count, nullptr), H5Sclose);
  if (H5Dwrite(data.id(), type, memory.id(), space.id(), H5P_DEFAULT, values) < 0) {
    fail(path, "cannot be written");
  }
}

void RoutingWriter::write(int64_t micro_batch,
                          int64_t layer,
                          std::span<const int32_t> choices,
                          std::span<const float> weights) {
  if (file_->steps.empty()) begin_step(0);
  const File& f = *file_;
  CHECK(micro_batch >= 0 && micro_batch < f.shape.micro_batches && layer >= 0 &&
        layer < f.shape.layers)
      << micro_batch << " " << layer;
  CHECK(static_cast<int64_t>(choices.size()) == f.shape.choices()) << choices.size();
  const int64_t row =
      (static_cast<int64_t>(f.steps.size()) - 1) * f.shape.micro_batches + micro_batch;
  const Slab slab = slab_of(f.shape, row, layer);
  // As they are stored: HDF5's own conversions take several times as long.
  const std::vector<uint16_t> narrow(choices.begin(), choices.end());
  f.put(f.choices, H5T_STD_U16LE, slab, narrow.data());
  if (!f.weights.good()) return;
  CHECK(weights.size() == choices.size()) << weights.size();
  std::vector<uint16_t> halves(weights.size());
  std::ranges::transform(weights, halves.begin(), half_of);
  f.put(f.weights, half_type().id(), slab, halves.data());
}

void RoutingWriter::write_step(int64_t number, std::span<const uint16_t> choices) {
  begin_step(number);
  const File& f = *file_;
  const RoutingShape& s = f.shape;
  CHECK(static_cast<int64_t>(choices.size()) == s.micro_batches * s.layers * s.choices())
      << choices.size();
  const auto row = (static_cast<int64_t>(f.steps.size()) - 1) * s.micro_batches;
  const Slab slab{{static_cast<hsize_t>(row), 0, 0, 0},
                  {static_cast<hsize_t>(s.micro_batches),
                   static_cast<hsize_t>(s.layers),
                   static_cast<hsize_t>(s.tokens),
                   static_cast<hsize_t>(s.active)}};
  f.put(f.choices, H5T_NATIVE_UINT16, slab, choices.data());
}

void RoutingWriter::put_numbers(const std::string& name, const std::vector<int64_t>& numbers) {
  const File& f = *file_;
  const hsize_t count = numbers.size();
  const Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const Handle how(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(how.id(), false);
  const Handle data(
      H5Dcreate2(
          f.file.id(), name.c_str(), H5T_STD_I64LE, space.id(), H5P_DEFAULT, how.id(), H5P_DEFAULT),
      H5Dclose);
  if (H5Dwrite(data.id(), H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, numbers.data()) < 0) {
    fail(f.path, "cannot be written");
  }
}

int64_t RoutingWriter::packed_bytes() const {
  const File& f = *file_;
  hsize_t size = H5Dget_storage_size(f.choices.id());
  if (f.weights.good()) size += H5Dget_storage_size(f.weights.id());
  return static_cast<int64_t>(size);
}

void RoutingWriter::commit() {
  File& f = *file_;
  // Written anew each time: as many numbers as there are steps.
  if (H5Lexists(f.file.id(), "steps", H5P_DEFAULT) > 0) {
    H5Ldelete(f.file.id(), "steps", H5P_DEFAULT);
  }
  put_numbers("steps", f.steps);
  // As it lies in memory, which is where this driver's handle points.
  const bool flushed = H5Fflush(f.file.id(), H5F_SCOPE_GLOBAL) >= 0;
  const ssize_t size = flushed ? H5Fget_file_image(f.file.id(), nullptr, 0) : -1;
  void* handle = nullptr;
  if (size <= 0 || H5Fget_vfd_handle(f.file.id(), H5P_DEFAULT, &handle) < 0 || handle == nullptr) {
    fail(f.path, "cannot be written");
  }
  char* const image = *static_cast<char**>(handle);
  // "Open for writing" (the superblock's consistency flags) is of this program, not of the file.
  constexpr size_t kVersion = 8, kFlags = 20;
  CHECK(image[kVersion] <= 1) << "a superblock of version " << static_cast<int>(image[kVersion]);
  const char open = std::exchange(image[kFlags], 0);
  try {
    write_file(f.path, {image, static_cast<size_t>(size)});
  } catch (...) {
    image[kFlags] = open;
    throw;
  }
  image[kFlags] = open;
}

}  // namespace rehearse
