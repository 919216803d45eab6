#include "kernels/fp8_cast/fp8_cast_check.h"

#include <cmath>
#include <exception>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "base/integers.h"

namespace rehearse::kernels {
namespace {

constexpr uint8_t kUntouchedCode = 0x5a;
constexpr float kUntouchedScale = -7;

const char* name_of(CastKind kind) {
  switch (kind) {
    case CastKind::kRows:
      return "rows";
    case CastKind::kColumns:
      return "columns";
    case CastKind::kColumnsOfCodes:
      return "columns of codes";
    case CastKind::kBlocks:
      return "blocks";
  }
  return "";
}

CastCase make(CastKind kind, int64_t m, int64_t k, bool power_of_two = false) {
  CastCase c;
  c.kind = kind, c.m = m, c.k = k, c.power_of_two = power_of_two;
  c.name = std::string("cast ") + name_of(kind) + " " + std::to_string(m) + " x " +
           std::to_string(k) + (power_of_two ? ", powers of two" : "");
  return c;
}

CastCase grouped(
    CastKind kind, const char* what, std::vector<int32_t> rows, int64_t k, int64_t spare) {
  int64_t m = spare;
  for (const int32_t r : rows) m += ceil_div(r, kScaleBlock) * kScaleBlock;
  CastCase c = make(kind, m, k);
  c.name += std::string(", groups ") + what;
  c.rows = std::move(rows);
  return c;
}

CastCase matrices(int64_t count, CastCase c) {
  c.matrices = count;
  c.name += " x " + std::to_string(count);
  return c;
}

// Values of very different size from block to block, 1e-9 among them, with single zeros, an
// infinity and a NaN.
std::vector<float> draw(const CastCase& c) {
  if (c.every_value) {
    std::vector<float> out;
    for (uint32_t bits = 0; out.size() < static_cast<size_t>(c.m * c.k); ++bits) {
      if (out.size() % kScaleBlock == 0) out.push_back(kE4m3Max);
      const float x = to_float(Bf16{static_cast<uint16_t>(bits)});
      if (std::abs(x) <= kE4m3Max) out.push_back(x);
    }
    return out;
  }
  std::mt19937_64 random = random_of(c.name);
  std::normal_distribution<float> normal(0, 1);
  const int64_t rows = c.m * c.matrices;
  const int64_t across = ceil_div(c.k, 64);
  std::vector<float> sizes(static_cast<size_t>(ceil_div(rows, 32) * across));
  for (float& s : sizes) {
    s = random() % 8 == 0 ? 0 : std::pow(10.0f, static_cast<float>(random() % 16) - 12);
  }
  // Large cases repeat a table of draws: what counts is that neighbours differ.
  std::vector<float> table(4096);
  for (float& x : table) x = normal(random);
  std::vector<float> out(static_cast<size_t>(rows * c.k));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < c.k; ++j) {
      out[static_cast<size_t>(i * c.k + j)] =
          table[static_cast<size_t>((i * 977 + j * 31 + i / 7) % 4096)] *
          sizes[static_cast<size_t>(i / 32 * across + j / 64)];
    }
  }
  const auto at = [&] { return static_cast<size_t>(random() % out.size()); };
  out[at()] = std::numeric_limits<float>::infinity();
  out[at()] = -std::numeric_limits<float>::quiet_NaN();
  out[at()] = 1e-42f;  // subnormal
  return out;
}

std::vector<Bf16> to_bf16s(const std::vector<float>& x) {
  std::vector<Bf16> out;
  out.reserve(x.size());
  for (const float v : x) out.push_back(to_bf16(v));
  return out;
}

// Every array of a cast, on the host or on the target.
struct Arrays {
  const Bf16* x = nullptr;
  const float* w = nullptr;
  const uint8_t* x_codes = nullptr;
  const float* x_scales = nullptr;
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint8_t* transposed_codes = nullptr;
  float* transposed_scales = nullptr;
  const int32_t* rows = nullptr;
};

int64_t padded(int64_t n) {
  return ceil_div(n, 4) * 4 + 4;
}
int64_t scale_stride(const CastCase& c) {
  return padded(c.kind == CastKind::kRows ? c.m : c.k);
}
int64_t scale_count(const CastCase& c) {
  if (c.kind == CastKind::kBlocks) {
    return c.matrices * ceil_div(c.m, kScaleBlock) * ceil_div(c.k, kScaleBlock);
  }
  return ceil_div(c.kind == CastKind::kRows ? c.k : c.m, kScaleBlock) * scale_stride(c);
}

CastRows rows_of(const CastCase& c, const Arrays& a) {
  CastRows r;
  r.x = a.x, r.codes = a.codes, r.scales = a.scales, r.scale_stride = scale_stride(c);
  r.m = c.m, r.k = c.k, r.power_of_two = c.power_of_two;
  r.groups = static_cast<int>(std::max<size_t>(1, c.rows.size())), r.rows = a.rows;
  return r;
}

CastColumns columns_of(const CastCase& c, const Arrays& a) {
  CastColumns r;
  r.x = a.x, r.x_codes = a.x_codes, r.x_scales = a.x_scales, r.x_scale_stride = padded(c.m);
  r.codes = a.codes, r.scales = a.scales, r.scale_stride = scale_stride(c);
  r.tokens = c.m, r.k = c.k, r.power_of_two = c.power_of_two;
  r.groups = static_cast<int>(std::max<size_t>(1, c.rows.size())), r.rows = a.rows;
  return r;
}

CastBlocks blocks_of(const CastCase& c, const Arrays& a) {
  CastBlocks r;
  r.w = a.w, r.codes = a.codes, r.scales = a.scales;
  r.transposed_codes = a.transposed_codes, r.transposed_scales = a.transposed_scales;
  r.matrices = c.matrices, r.n = c.m, r.k = c.k, r.power_of_two = c.power_of_two;
  return r;
}

void start(const CastCase& c, const Arrays& a, const KernelSet& kernels) {
  switch (c.kind) {
    case CastKind::kRows:
      return kernels.cast_rows(rows_of(c, a), {});
    case CastKind::kColumns:
    case CastKind::kColumnsOfCodes:
      return kernels.cast_columns(columns_of(c, a), {});
    case CastKind::kBlocks:
      return kernels.cast_blocks(blocks_of(c, a), {});
  }
}

const KernelSet& references() {
  static const KernelSet set = [] {
    KernelSet s;
    s.cast_rows = [](const CastRows& c, Stream) { cast_rows_reference(c); };
    s.cast_columns = [](const CastColumns& c, Stream) { cast_columns_reference(c); };
    s.cast_blocks = [](const CastBlocks& c, Stream) { cast_blocks_reference(c); };
    return s;
  }();
  return set;
}

// A case's arrays on host and target.
class Operands {
 public:
  Operands(const CastCase& c, Target& target)
      : case_(c),
        target_(target),
        values_(draw(c)),
        x_(to_bf16s(values_)),
        x_codes_(c.kind == CastKind::kColumnsOfCodes ? values_.size() : 1),
        x_scales_(c.kind == CastKind::kColumnsOfCodes
                      ? static_cast<size_t>(ceil_div(c.k, kScaleBlock) * padded(c.m))
                      : 1),
        codes_(values_.size(), kUntouchedCode),
        scales_(static_cast<size_t>(scale_count(c)), kUntouchedScale),
        transposed_codes_(c.kind == CastKind::kBlocks ? values_.size() : 1, kUntouchedCode),
        transposed_scales_(c.kind == CastKind::kBlocks ? scales_.size() : 1, kUntouchedScale),
        d_values_(target, values_),
        d_x_(target, x_),
        d_x_codes_(target, x_codes_.size()),
        d_x_scales_(target, x_scales_.size()),
        d_codes_(target, codes_),
        d_scales_(target, scales_),
        d_transposed_codes_(target, transposed_codes_),
        d_transposed_scales_(target, transposed_scales_),
        d_rows_(target, c.rows.empty() ? std::vector<int32_t>{0} : c.rows) {
    if (c.kind == CastKind::kColumnsOfCodes) {
      CastRows r;
      r.x = x_.data(), r.codes = x_codes_.data(), r.scales = x_scales_.data();
      r.scale_stride = padded(c.m), r.m = c.m, r.k = c.k;
      cast_rows_reference(r);
      target.upload(d_x_codes_.get(), x_codes_.data(), x_codes_.size());
      target.upload(d_x_scales_.get(), x_scales_.data(), x_scales_.size() * sizeof(float));
    }
  }

  Arrays host() {
    Arrays a;
    const bool of_codes = case_.kind == CastKind::kColumnsOfCodes;
    a.x = of_codes ? nullptr : x_.data();
    a.w = values_.data();
    a.x_codes = of_codes ? x_codes_.data() : nullptr, a.x_scales = x_scales_.data();
    a.codes = codes_.data(), a.scales = scales_.data();
    a.transposed_codes = transposed_codes_.data(), a.transposed_scales = transposed_scales_.data();
    a.rows = case_.rows.empty() ? nullptr : case_.rows.data();
    return a;
  }
  Arrays device() {
    Arrays a;
    const bool of_codes = case_.kind == CastKind::kColumnsOfCodes;
    a.x = of_codes ? nullptr : d_x_.get();
    a.w = d_values_.get();
    a.x_codes = of_codes ? d_x_codes_.get() : nullptr, a.x_scales = d_x_scales_.get();
    a.codes = d_codes_.get(), a.scales = d_scales_.get();
    a.transposed_codes = d_transposed_codes_.get();
    a.transposed_scales = d_transposed_scales_.get();
    a.rows = case_.rows.empty() ? nullptr : d_rows_.get();
    return a;
  }
  // Throws where the target's results are not the host's.
  void compare() {
    require_same(d_codes_.values(), codes_, "code");
    require_same(d_scales_.values(), scales_, "scale");
    require_same(d_transposed_codes_.values(), transposed_codes_, "transposed code");
    require_same(d_transposed_scales_.values(), transposed_scales_, "transposed scale");
  }
  void release() {
    d_values_.release();
    d_x_.release();
    d_x_codes_.release();
    d_x_scales_.release();
    d_codes_.release();
    d_scales_.release();
    d_transposed_codes_.release();
    d_transposed_scales_.release();
    d_rows_.release();
  }

 private:
  template <class T>
  static void require_same(const std::vector<T>& got,
                           const std::vector<T>& want,
                           const char* what) {
    for (size_t i = 0; i < want.size(); ++i) {
      if (std::memcmp(&got[i], &want[i], sizeof(T)) != 0) {
        throw std::runtime_error(std::string(what) + " " + std::to_string(i) + " is " +
                                 std::to_string(got[i]) + ", the reference has " +
                                 std::to_string(want[i]));
      }
    }
  }

  CastCase case_;
  Target& target_;
  std::vector<float> values_;
  std::vector<Bf16> x_;
  std::vector<uint8_t> x_codes_;
  std::vector<float> x_scales_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  std::vector<uint8_t> transposed_codes_;
  std::vector<float> transposed_scales_;
  DeviceArray<float> d_values_;
  DeviceArray<Bf16> d_x_;
  DeviceArray<uint8_t> d_x_codes_;
  DeviceArray<float> d_x_scales_;
  DeviceArray<uint8_t> d_codes_;
  DeviceArray<float> d_scales_;
  DeviceArray<uint8_t> d_transposed_codes_;
  DeviceArray<float> d_transposed_scales_;
  DeviceArray<int32_t> d_rows_;
};

}  // namespace

GpuTask CastCase::task() const {
  const int64_t used =
      rows.empty() ? m * matrices : std::accumulate(rows.begin(), rows.end(), int64_t{0});
  const int64_t element = kind == CastKind::kBlocks ? 4 : kind == CastKind::kColumnsOfCodes ? 1 : 2;
  GpuTask task = cast_task(used * k, element);
  if (kind == CastKind::kBlocks) task.bytes += Bytes(used * k);  // both ways round
  return task;
}

std::vector<CastCase> small_cast_cases() {
  std::vector<CastCase> list;
  for (const bool power_of_two : {false, true}) {
    list.push_back(make(CastKind::kRows, 137, 400, power_of_two));
    list.push_back(make(CastKind::kColumns, 144, 208, power_of_two));
    list.push_back(make(CastKind::kColumnsOfCodes, 272, 144, power_of_two));
    list.push_back(matrices(3, make(CastKind::kBlocks, 208, 336, power_of_two)));
  }
  // 2 (448's bits + 1) values, and 448 itself at the head of every 128.
  CastCase every = make(CastKind::kRows, (2 * (to_bf16(kE4m3Max).bits + 1) + 126) / 127, 128);
  every.name = "cast rows, every BF16 value up to 448";
  every.every_value = true;
  list.push_back(every);
  list.push_back(make(CastKind::kRows, 1, 16));
  list.push_back(make(CastKind::kRows, 128, 128));
  list.push_back(make(CastKind::kRows, 9, 576));
  list.push_back(make(CastKind::kColumns, 16, 16));
  list.push_back(make(CastKind::kColumns, 128, 64));
  list.push_back(make(CastKind::kColumns, 384, 48));
  list.push_back(make(CastKind::kBlocks, 16, 16));
  list.push_back(make(CastKind::kBlocks, 128, 128));
  for (const CastKind kind : {CastKind::kRows, CastKind::kColumns, CastKind::kColumnsOfCodes}) {
    list.push_back(grouped(kind, "empty, one, full, odd", {0, 1, 128, 130}, 272, 128));
    list.push_back(grouped(kind, "all empty", {0, 0}, 64, 128));
  }
  return list;
}

std::vector<CastCase> v3_cast_cases() {
  const std::vector<int32_t> routed = {9311, 6920, 8005, 8532};
  return {make(CastKind::kRows, 4096, 7168),
          make(CastKind::kRows, 32768, 7168),
          make(CastKind::kRows, 32768, 2048, true),
          grouped(CastKind::kRows, "unequal", routed, 7168, 2048),
          make(CastKind::kColumns, 4096, 16384),
          make(CastKind::kColumns, 32768, 4096),
          grouped(CastKind::kColumns, "unequal", routed, 7168, 2048),
          make(CastKind::kColumnsOfCodes, 32768, 7168),
          grouped(CastKind::kColumnsOfCodes, "unequal", routed, 7168, 2048),
          matrices(4, make(CastKind::kBlocks, 4096, 7168)),
          matrices(4, make(CastKind::kBlocks, 7168, 2048)),
          make(CastKind::kBlocks, 24576, 1536)};
}

Outcome check_cast(const CastCase& c, Target& target) {
  Outcome out;
  out.name = c.name;
  try {
    Operands operands(c, target);
    start(c, operands.host(), references());
    for (int run = 0; run < 2; ++run) {
      target.vary(run);
      start(c, operands.device(), target.kernels);
      target.synchronize();
      operands.compare();
    }
    operands.release();
    out.passed = true;
    out.found = "equal to the bit";
  } catch (const std::exception& e) {
    out.found = e.what();
  }
  return out;
}

std::function<void()> prepare_cast(const CastCase& c, Target& target) {
  auto operands = std::make_shared<Operands>(c, target);
  return [c, operands, &target] { start(c, operands->device(), target.kernels); };
}

}  // namespace rehearse::kernels
