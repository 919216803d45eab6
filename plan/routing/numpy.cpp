// NumPy's arrays as routing traces: .npy, and .npz (a zip of those, stored or deflated).

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <zlib.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/routing/foreign.h"

namespace rehearse {
namespace {

[[noreturn]] void reject(const std::string& path, const std::string& what) {
  throw InputError(fmt::format("{}: {}", path, what));
}

struct WholeArray {
  std::vector<int64_t> shape;
  std::vector<int64_t> values;
};

template <typename T>
void widen(std::string_view data, std::vector<int64_t>& to) {
  for (size_t i = 0; i < to.size(); ++i) {
    T value;
    std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
    to[i] = static_cast<int64_t>(value);
  }
}

// "'descr': '<i4'" and so on, of the header's dictionary.
std::string_view field(const std::string& path, std::string_view header, const char* key) {
  const size_t at = header.find(fmt::format("'{}':", key));
  if (at == std::string_view::npos) reject(path, fmt::format("its header has no '{}'", key));
  header.remove_prefix(at + std::strlen(key) + 3);
  while (header.starts_with(' ')) header.remove_prefix(1);
  if (header.empty()) reject(path, fmt::format("its header's '{}' is cut off", key));
  return header;
}

WholeArray parse_npy(const std::string& path, std::string_view data) {
  constexpr std::string_view kMagic = "\x93NUMPY";
  if (!data.starts_with(kMagic) || data.size() < 12)
    reject(path, "is not a NumPy array, or was cut off");
  const bool wide = data[6] >= 2;
  size_t length = 0;
  const size_t prefix = wide ? 12 : 10;
  for (size_t i = 0; i < prefix - 8; ++i) {
    length |= static_cast<size_t>(static_cast<uint8_t>(data[8 + i])) << (8 * i);
  }
  if (data.size() < prefix || length > data.size() - prefix) reject(path, "its header is cut off");
  const std::string_view header = data.substr(prefix, length);
  data.remove_prefix(prefix + length);
  if (!field(path, header, "fortran_order").starts_with("False")) {
    reject(path, "is in Fortran's order; save it in C's (numpy.ascontiguousarray)");
  }
  WholeArray a;
  std::string_view shape = field(path, header, "shape");
  if (!shape.starts_with('(')) reject(path, "its header has no shape");
  shape.remove_prefix(1);
  constexpr int64_t kMost = int64_t{1} << 33;
  int64_t count = 1;
  while (!shape.empty() && !shape.starts_with(')')) {
    int64_t n = 0;
    const auto [end, error] = std::from_chars(shape.data(), shape.data() + shape.size(), n);
    if (error != std::errc() || n < 1 || n > kMost || count > kMost / n) {
      reject(path, "its shape has an extent of nothing, or too much");
    }
    count *= n;
    a.shape.push_back(n);
    shape.remove_prefix(static_cast<size_t>(end - shape.data()));
    while (shape.starts_with(',') || shape.starts_with(' ')) shape.remove_prefix(1);
  }
  const std::string_view type = field(path, header, "descr").substr(1, 3);
  constexpr std::string_view kTypes = "|u1 |i1 <u2 <i2 <u4 <i4 <i8 <u8";
  if (type.size() != 3 || kTypes.find(type) == std::string_view::npos) {
    reject(path, fmt::format("is of type '{}'; expected whole numbers ({})", type, kTypes));
  }
  const auto bytes = static_cast<size_t>(type[2] - '0');
  if (data.size() != static_cast<size_t>(count) * bytes) {
    reject(path,
           fmt::format("has {} bytes of values; its shape ({}) needs {}",
                       data.size(),
                       fmt::join(a.shape, ", "),
                       static_cast<size_t>(count) * bytes));
  }
  a.values.resize(static_cast<size_t>(count));
  if (type == "|u1") widen<uint8_t>(data, a.values);
  if (type == "|i1") widen<int8_t>(data, a.values);
  if (type == "<u2") widen<uint16_t>(data, a.values);
  if (type == "<i2") widen<int16_t>(data, a.values);
  if (type == "<u4") widen<uint32_t>(data, a.values);
  if (type == "<i4") widen<int32_t>(data, a.values);
  if (type == "<i8" || type == "<u8") widen<int64_t>(data, a.values);
  return a;
}

uint64_t little(std::string_view data, size_t at, int bytes) {
  uint64_t n = 0;
  for (int i = 0; i < bytes; ++i) {
    n |= static_cast<uint64_t>(static_cast<uint8_t>(data[at + static_cast<size_t>(i)])) << (8 * i);
  }
  return n;
}

// A member of a zip, by the archive's central directory.
std::string unzip(const std::string& path, std::string_view zip, const std::string& wanted) {
  constexpr std::string_view kEnd = "PK\5\6";
  constexpr std::string_view kEntry = "PK\1\2";
  const size_t end = zip.rfind(kEnd);
  if (end == std::string_view::npos || zip.size() < end + 22)
    reject(path, "is no zip, or was cut off");
  const uint64_t entries = little(zip, end + 10, 2);
  size_t at = little(zip, end + 16, 4);
  std::vector<std::string> names;
  for (uint64_t i = 0; i < entries; ++i) {
    if (at + 46 > zip.size() || !zip.substr(at).starts_with(kEntry)) {
      reject(path, "its directory is damaged");
    }
    const uint64_t method = little(zip, at + 10, 2);
    const uint64_t checksum = little(zip, at + 16, 4);
    uint64_t packed = little(zip, at + 20, 4);
    uint64_t size = little(zip, at + 24, 4);
    const uint64_t name_length = little(zip, at + 28, 2);
    const uint64_t extra = little(zip, at + 30, 2);
    uint64_t local = little(zip, at + 42, 4);
    const size_t next = at + 46 + name_length + extra + little(zip, at + 32, 2);
    if (next > zip.size()) reject(path, "its directory is damaged");
    std::string name(zip.substr(at + 46, name_length));
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    names.push_back(name);
    at = next;
    if (!wanted.empty() ? name != wanted : entries != 1) continue;
    constexpr uint64_t kIn64 = 0xFFFFFFFF;
    if (packed == kIn64 || size == kIn64 || local == kIn64) {
      reject(path, "holds an array of 4 GiB and more: save it by itself (numpy.save)");
    }
    if (local + 30 > zip.size()) reject(path, "its directory is damaged");
    const size_t data = local + 30 + little(zip, local + 26, 2) + little(zip, local + 28, 2);
    if (data + packed > zip.size()) reject(path, fmt::format("'{}' is cut off", name));
    std::string out;
    if (method == 0) {
      out = zip.substr(data, packed);
    } else if (method == 8) {
      // No more than deflate can make of it.
      if (size > packed * 1100 + 1024) reject(path, fmt::format("'{}' is damaged", name));
      out.resize(size);
      z_stream stream{};
      inflateInit2(&stream, -MAX_WBITS);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(zip.data() + data));
      stream.avail_in = static_cast<uInt>(packed);
      stream.next_out = reinterpret_cast<Bytef*>(out.data());
      stream.avail_out = static_cast<uInt>(size);
      const int result = inflate(&stream, Z_FINISH);
      const bool whole = result == Z_STREAM_END && stream.total_out == size;
      inflateEnd(&stream);
      if (!whole) reject(path, fmt::format("'{}' does not unpack", name));
    } else {
      reject(path,
             fmt::format("'{}' is packed by method {}; expected none or deflate", name, method));
    }
    if (::crc32_z(0, reinterpret_cast<const Bytef*>(out.data()), out.size()) != checksum) {
      reject(path, fmt::format("'{}' is damaged: its checksum is another", name));
    }
    return out;
  }
  reject(path,
         wanted.empty()
             ? fmt::format("holds several arrays; name one of: {}", fmt::join(names, ", "))
             : fmt::format("has no array '{}'; it has: {}", wanted, fmt::join(names, ", ")));
}

// A step whose experts have these tokens: expert by expert, hottest first, one to each token in
// turn, so that no token has one twice.
RecordedStep dealt(const std::string& path,
                   const std::vector<std::vector<int64_t>>& layers,
                   int64_t active,
                   int64_t number) {
  const auto experts = static_cast<int64_t>(layers.front().size());
  RecordedStep step{.shape = {.micro_batches = 1,
                              .layers = static_cast<int64_t>(layers.size()),
                              .tokens = 0,
                              .active = active,
                              .experts = experts},
                    .number = number,
                    .choices = {}};
  for (size_t l = 0; l < layers.size(); ++l) {
    int64_t sum = 0;
    for (size_t e = 0; e < layers[l].size(); ++e) {
      if (layers[l][e] < 0)
        reject(path,
               fmt::format("step {}, layer {}, expert {}: {} tokens", number, l, e, layers[l][e]));
      sum += layers[l][e];
    }
    const int64_t tokens = sum / active;
    if (l == 0) step.shape.tokens = tokens;
    if (sum == 0 || sum % active != 0 || tokens != step.shape.tokens) {
      reject(path,
             fmt::format("step {}, layer {}: {} choices are no {} tokens of {} each",
                         number,
                         l,
                         sum,
                         step.shape.tokens,
                         active));
    }
    std::vector<int32_t> order(layers[l].size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
      return layers[l][static_cast<size_t>(a)] > layers[l][static_cast<size_t>(b)];
    });
    if (const int64_t most = layers[l][static_cast<size_t>(order.front())]; most > tokens) {
      reject(path,
             fmt::format("step {}, layer {}: expert {} has {} of {} tokens",
                         number,
                         l,
                         order.front(),
                         most,
                         tokens));
    }
    std::vector<uint16_t> choices(static_cast<size_t>(sum));
    int64_t dealt = 0;
    for (const int32_t e : order) {
      for (int64_t n = 0; n < layers[l][static_cast<size_t>(e)]; ++n, ++dealt) {
        choices[static_cast<size_t>(dealt % tokens * active + dealt / tokens)] =
            static_cast<uint16_t>(e);
      }
    }
    step.choices.insert(step.choices.end(), choices.begin(), choices.end());
  }
  return step;
}

}  // namespace

ForeignTrace read_array(const std::string& path, const ArrayOptions& o) {
  const std::string file = read_file(path);
  const bool zipped = file.starts_with("PK");
  const std::string inside = zipped ? unzip(path, file, o.name) : "";
  const WholeArray a = parse_npy(path, zipped ? inside : file);
  const auto shape_text = fmt::format("({})", fmt::join(a.shape, ", "));
  ForeignTrace trace;
  trace.about["source"] = "a NumPy array " + shape_text;
  if (o.counts) {
    if (a.shape.size() != 2 && a.shape.size() != 3) {
      reject(path,
             "is of shape " + shape_text + "; counts are [layers, experts], with steps before");
    }
    const int64_t steps = a.shape.size() == 3 ? a.shape[0] : 1;
    const auto layers = static_cast<size_t>(a.shape[a.shape.size() - 2]);
    const auto experts = static_cast<size_t>(a.shape.back());
    trace.estimated = true;
    for (int64_t s = 0; s < steps; ++s) {
      std::vector<std::vector<int64_t>> of;
      for (size_t l = 0; l < layers; ++l) {
        const auto begin = a.values.begin() +
                           static_cast<ptrdiff_t>((static_cast<size_t>(s) * layers + l) * experts);
        of.emplace_back(begin, begin + static_cast<ptrdiff_t>(experts));
      }
      trace.steps.push_back(dealt(path, of, o.active, s));
      if (trace.steps.back().shape != trace.steps.front().shape) {
        reject(path, fmt::format("step {} has other numbers of tokens than the first", s));
      }
    }
    return trace;
  }
  const size_t n = a.shape.size();
  if (n < 3 || n > 5) {
    reject(path,
           "is of shape " + shape_text +
               "; expected [tokens, layers, active], [micro_batches, layers, tokens, active], or "
               "with steps before");
  }
  const bool by_token = n == 3;
  const int64_t steps = n == 5 ? a.shape[0] : 1;
  RoutingShape shape{.micro_batches = by_token ? 1 : a.shape[n - 4],
                     .layers = by_token ? a.shape[1] : a.shape[n - 3],
                     .tokens = by_token ? a.shape[0] : a.shape[n - 2],
                     .active = a.shape[n - 1],
                     .experts = o.experts};
  const int64_t largest = *std::ranges::max_element(a.values);
  if (shape.experts == 0) shape.experts = largest + 1;
  const auto bad = std::ranges::find_if(
      a.values, [&](int64_t e) { return e < 0 || e >= shape.experts || e > 65'535; });
  if (bad != a.values.end()) {
    reject(path,
           fmt::format("value {} is expert {} of {}", bad - a.values.begin(), *bad, shape.experts));
  }
  const auto size = static_cast<size_t>(shape.micro_batches * shape.layers * shape.choices());
  for (int64_t s = 0; s < steps; ++s) {
    RecordedStep step{.shape = shape, .number = s, .choices = std::vector<uint16_t>(size)};
    for (size_t i = 0; i < size; ++i) {
      size_t from = static_cast<size_t>(s) * size + i;
      if (by_token) {  // [token, layer, active] to [layer, token, active]
        const auto k = static_cast<size_t>(shape.active);
        const size_t token = i / k % static_cast<size_t>(shape.tokens);
        const size_t layer = i / k / static_cast<size_t>(shape.tokens);
        from = (token * static_cast<size_t>(shape.layers) + layer) * k + i % k;
      }
      step.choices[i] = static_cast<uint16_t>(a.values[from]);
    }
    for (int64_t m = 0; m < shape.micro_batches; ++m) {
      for (int64_t l = 0; l < shape.layers; ++l) {
        const auto of = step.of(m, l);
        const std::vector<int32_t> wide(of.begin(), of.end());
        const std::string wrong = why_not_choices(wide, shape.active, shape.experts);
        if (!wrong.empty()) {
          reject(path,
                 fmt::format(fmt::runtime(wrong),
                             fmt::format("of micro-batch {} of layer {} of step {}", m, l, s)));
        }
      }
    }
    trace.steps.push_back(std::move(step));
  }
  return trace;
}

}  // namespace rehearse
