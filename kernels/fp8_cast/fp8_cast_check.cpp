#include "kernels/fp8_cast/fp8_cast_check.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
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

constexpr int64_t kDrawnRows = 1024;  // large cases repeat blocks of 128 of so many, in any order

// Of which drawn block each block of 128 rows is a copy: of its own where there are few.
std::vector<int64_t> sources_of(const CastCase& c) {
  const int64_t blocks = ceil_div(c.m * c.matrices, kScaleBlock);
  std::vector<int64_t> list(static_cast<size_t>(blocks));
  std::iota(list.begin(), list.end(), int64_t{0});
  if (blocks * kScaleBlock <= kDrawnRows) return list;
  std::mt19937_64 random = random_of(c.name + " blocks");
  for (int64_t& s : list) s = static_cast<int64_t>(random() % (kDrawnRows / kScaleBlock));
  return list;
}

// Values of very different size from block to block, 1e-9 among them, with single zeros, an
// infinity and a NaN; of large cases the drawn rows.
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
  const int64_t rows = std::min(c.m * c.matrices, kDrawnRows);
  const int64_t across = ceil_div(c.k, 64);
  std::vector<float> sizes(static_cast<size_t>(ceil_div(rows, 32) * across));
  for (float& s : sizes) {
    s = random() % 8 == 0 ? 0 : std::pow(10.0f, static_cast<float>(random() % 16) - 12);
  }
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

// All rows of a case from the drawn ones.
template <class T>
std::vector<T> repeated(const std::vector<T>& drawn, const CastCase& c) {
  std::vector<T> out;
  const auto all = static_cast<size_t>(c.m * c.matrices * c.k);
  if (drawn.size() == all) return drawn;
  out.reserve(all);
  for (const int64_t source : sources_of(c)) {
    const auto first = drawn.begin() + source * kScaleBlock * c.k;
    const auto count = std::min<int64_t>(kScaleBlock * c.k, static_cast<int64_t>(all - out.size()));
    out.insert(out.end(), first, first + count);
  }
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

void start(const CastCase& c, const Arrays& a, const KernelSet& kernels, Stream stream = {}) {
  switch (c.kind) {
    case CastKind::kRows:
      return kernels.cast_rows(rows_of(c, a), stream);
    case CastKind::kColumns:
    case CastKind::kColumnsOfCodes:
      return kernels.cast_columns(columns_of(c, a), stream);
    case CastKind::kBlocks:
      return kernels.cast_blocks(blocks_of(c, a), stream);
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

// What the cast makes of 128 rows.
struct Block {
  std::vector<uint8_t> codes, transposed_codes;
  std::vector<float> scales;
};

// A case's arrays on host and target.
class Operands {
 public:
  Operands(const CastCase& c, Target& target)
      : case_(c),
        target_(target),
        drawn_(draw(c)),
        drawn_x_(c.kind == CastKind::kBlocks ? std::vector<Bf16>(1) : to_bf16s(drawn_)),
        drawn_rows_(static_cast<int64_t>(drawn_.size()) / c.k),
        values_(c.kind == CastKind::kBlocks ? repeated(drawn_, c) : std::vector<float>(1)),
        x_(is_of_values(c) ? repeated(drawn_x_, c) : std::vector<Bf16>(1)),
        drawn_codes_(c.kind == CastKind::kColumnsOfCodes ? drawn_.size() : 1),
        drawn_scales_(c.kind == CastKind::kColumnsOfCodes
                          ? static_cast<size_t>(ceil_div(c.k, kScaleBlock) * padded(drawn_rows_))
                          : 1),
        x_codes_(1),
        x_scales_(1),
        codes_(static_cast<size_t>(c.m * c.matrices * c.k), kUntouchedCode),
        scales_(static_cast<size_t>(scale_count(c)), kUntouchedScale),
        transposed_codes_(c.kind == CastKind::kBlocks ? codes_.size() : 1, kUntouchedCode),
        transposed_scales_(c.kind == CastKind::kBlocks ? scales_.size() : 1, kUntouchedScale) {
    if (c.kind == CastKind::kColumnsOfCodes) make_codes();
    work_out();
    d_values_.emplace(target, values_);
    d_x_.emplace(target, x_);
    d_x_codes_.emplace(target, x_codes_);
    d_x_scales_.emplace(target, x_scales_);
    d_codes_.emplace(target, codes_.size());
    d_scales_.emplace(target, scales_.size());
    d_transposed_codes_.emplace(target, transposed_codes_.size());
    d_transposed_scales_.emplace(target, transposed_scales_.size());
    d_rows_.emplace(target, c.rows.empty() ? std::vector<int32_t>{0} : c.rows);
  }

  // Makes the target's results what nobody has touched.
  void reset() {
    target_.fill(d_codes_->get(), kUntouchedCode, codes_.size());
    target_.fill(d_transposed_codes_->get(), kUntouchedCode, transposed_codes_.size());
    for (auto* scales : {&d_scales_, &d_transposed_scales_}) {
      const size_t count = scales == &d_scales_ ? scales_.size() : transposed_scales_.size();
      const std::vector<float> untouched(count, kUntouchedScale);
      target_.upload((*scales)->get(), untouched.data(), count * sizeof(float));
    }
  }
  Arrays device() {
    Arrays a;
    const bool of_codes = case_.kind == CastKind::kColumnsOfCodes;
    a.x = of_codes ? nullptr : d_x_->get();
    a.w = d_values_->get();
    a.x_codes = of_codes ? d_x_codes_->get() : nullptr, a.x_scales = d_x_scales_->get();
    a.codes = d_codes_->get(), a.scales = d_scales_->get();
    a.transposed_codes = d_transposed_codes_->get();
    a.transposed_scales = d_transposed_scales_->get();
    a.rows = case_.rows.empty() ? nullptr : d_rows_->get();
    return a;
  }
  // Throws where the target's results are not the host's.
  void compare() {
    require_same(d_codes_->values(), codes_, "code");
    require_same(d_scales_->values(), scales_, "scale");
    require_same(d_transposed_codes_->values(), transposed_codes_, "transposed code");
    require_same(d_transposed_scales_->values(), transposed_scales_, "transposed scale");
  }
  void check_guards() const {
    d_values_->check_guards();
    d_x_->check_guards();
    d_x_codes_->check_guards();
    d_x_scales_->check_guards();
    d_codes_->check_guards();
    d_scales_->check_guards();
    d_transposed_codes_->check_guards();
    d_transposed_scales_->check_guards();
    d_rows_->check_guards();
  }

 private:
  static bool is_of_values(const CastCase& c) {
    return c.kind == CastKind::kRows || c.kind == CastKind::kColumns;
  }

  // The codes that are the input, of the drawn rows and then of all.
  void make_codes() {
    CastRows r;
    r.x = drawn_x_.data(), r.codes = drawn_codes_.data(), r.scales = drawn_scales_.data();
    r.scale_stride = padded(drawn_rows_), r.m = drawn_rows_, r.k = case_.k;
    cast_rows_reference(r);
    x_codes_ = repeated(drawn_codes_, case_);
    x_scales_.resize(static_cast<size_t>(ceil_div(case_.k, kScaleBlock) * padded(case_.m)));
    const std::vector<int64_t> sources = sources_of(case_);
    for (int64_t i = 0; i < ceil_div(case_.k, kScaleBlock); ++i) {
      for (int64_t row = 0; row < case_.m; ++row) {
        x_scales_[static_cast<size_t>(i * padded(case_.m) + row)] =
            drawn_scales_[static_cast<size_t>(
                i * padded(drawn_rows_) +
                sources[static_cast<size_t>(row / kScaleBlock)] * kScaleBlock + row % kScaleBlock)];
      }
    }
  }

  // What must come, by the reference: of small cases of all at once, of large ones of each drawn
  // block once, which is then put wherever a copy of it lies.
  void work_out() {
    if (drawn_rows_ == case_.m * case_.matrices) {
      Arrays a;
      const bool of_codes = case_.kind == CastKind::kColumnsOfCodes;
      a.x = of_codes ? nullptr : x_.data();
      a.w = values_.data();
      a.x_codes = of_codes ? x_codes_.data() : nullptr, a.x_scales = x_scales_.data();
      a.codes = codes_.data(), a.scales = scales_.data();
      a.transposed_codes = transposed_codes_.data();
      a.transposed_scales = transposed_scales_.data();
      a.rows = case_.rows.empty() ? nullptr : case_.rows.data();
      start(case_, a, references());
      return;
    }
    std::vector<int32_t> groups = case_.rows;
    if (groups.empty()) groups.assign(1, static_cast<int32_t>(case_.m * case_.matrices));
    const std::vector<int64_t> sources = sources_of(case_);
    std::map<std::pair<int64_t, int32_t>, Block> made;
    int64_t block = 0;
    for (const int32_t rows : groups) {
      for (int32_t first = 0; first < rows; first += kScaleBlock, ++block) {
        const int32_t valid = std::min<int32_t>(kScaleBlock, rows - first);
        const int64_t source = sources[static_cast<size_t>(block)];
        const auto [it, is_new] = made.try_emplace({source, valid});
        if (is_new) it->second = cast_of(source, valid);
        put(it->second, block);
      }
    }
  }

  Block cast_of(int64_t source, int32_t valid) {
    const int64_t across = ceil_div(case_.k, kScaleBlock);
    const bool by_column =
        case_.kind == CastKind::kColumns || case_.kind == CastKind::kColumnsOfCodes;
    Block block;
    block.codes.resize(static_cast<size_t>(kScaleBlock * case_.k));
    block.transposed_codes.resize(block.codes.size());
    CastCase c = case_;
    c.m = kScaleBlock, c.matrices = 1;
    c.rows = case_.rows.empty() ? std::vector<int32_t>{} : std::vector<int32_t>{valid};
    block.scales.resize(static_cast<size_t>(by_column ? scale_stride(c) : across * padded(c.m)));
    std::vector<float> transposed_scales(static_cast<size_t>(across));
    Arrays a;
    const int64_t at = source * kScaleBlock * case_.k;
    a.x = is_of_values(case_) ? drawn_x_.data() + at : nullptr;
    a.w = drawn_.data() + at;
    a.x_codes = drawn_codes_.data() + (is_of_values(case_) ? 0 : at);
    a.x_scales = drawn_scales_.data() + source * kScaleBlock;
    a.codes = block.codes.data(), a.scales = block.scales.data();
    a.transposed_codes = block.transposed_codes.data();
    a.transposed_scales = transposed_scales.data();
    a.rows = c.rows.empty() ? nullptr : c.rows.data();
    if (by_column) {
      CastColumns columns = columns_of(c, a);
      columns.x_scale_stride = padded(drawn_rows_);
      cast_columns_reference(columns);
    } else {
      start(c, a, references());
    }
    return block;
  }

  void put(const Block& made, int64_t block) {
    const int64_t k = case_.k;
    const int64_t across = ceil_div(k, kScaleBlock);
    // Rows of 128 codes, one per column, into columns of all rows.
    const auto put_transposed = [&](const std::vector<uint8_t>& from,
                                    std::vector<uint8_t>& to,
                                    int64_t first,
                                    int64_t stride) {
      for (int64_t j = 0; j < k; ++j) {
        std::memcpy(to.data() + first + j * stride, from.data() + j * kScaleBlock, kScaleBlock);
      }
    };
    if (case_.kind == CastKind::kRows) {
      std::copy(made.codes.begin(), made.codes.end(), codes_.begin() + block * kScaleBlock * k);
      for (int64_t i = 0; i < across; ++i) {
        std::copy_n(made.scales.begin() + i * padded(kScaleBlock),
                    kScaleBlock,
                    scales_.begin() + i * scale_stride(case_) + block * kScaleBlock);
      }
    } else if (case_.kind == CastKind::kBlocks) {
      const int64_t down = case_.m / kScaleBlock;
      const int64_t matrix = block / down;
      const int64_t row = block % down;
      std::copy(made.codes.begin(), made.codes.end(), codes_.begin() + block * kScaleBlock * k);
      put_transposed(made.transposed_codes,
                     transposed_codes_,
                     matrix * case_.m * k + row * kScaleBlock,
                     case_.m);
      for (int64_t i = 0; i < across; ++i) {
        const float scale = made.scales[static_cast<size_t>(i)];
        scales_[static_cast<size_t>(block * across + i)] = scale;
        transposed_scales_[static_cast<size_t>(matrix * down * across + i * down + row)] = scale;
      }
    } else {
      put_transposed(made.codes, codes_, block * kScaleBlock, case_.m);
      std::copy_n(made.scales.begin(), k, scales_.begin() + block * scale_stride(case_));
    }
  }

  template <class T>
  static void require_same(const std::vector<T>& got,
                           const std::vector<T>& want,
                           const char* what) {
    if (std::memcmp(got.data(), want.data(), want.size() * sizeof(T)) == 0) return;
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
  std::vector<float> drawn_;
  std::vector<Bf16> drawn_x_;
  int64_t drawn_rows_;
  std::vector<float> values_;
  std::vector<Bf16> x_;
  std::vector<uint8_t> drawn_codes_;
  std::vector<float> drawn_scales_;
  std::vector<uint8_t> x_codes_;
  std::vector<float> x_scales_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  std::vector<uint8_t> transposed_codes_;
  std::vector<float> transposed_scales_;
  std::optional<DeviceArray<float>> d_values_;
  std::optional<DeviceArray<Bf16>> d_x_;
  std::optional<DeviceArray<uint8_t>> d_x_codes_;
  std::optional<DeviceArray<float>> d_x_scales_;
  std::optional<DeviceArray<uint8_t>> d_codes_;
  std::optional<DeviceArray<float>> d_scales_;
  std::optional<DeviceArray<uint8_t>> d_transposed_codes_;
  std::optional<DeviceArray<float>> d_transposed_scales_;
  std::optional<DeviceArray<int32_t>> d_rows_;
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

struct CastCheck::State {
  State(const CastCase& c, Target& t) : of(c), target(t), operands(c, t) {}
  CastCase of;
  Target& target;
  Operands operands;
};

CastCheck::CastCheck(const CastCase& c, Target& target)
    : state_(std::make_unique<State>(c, target)) {}
CastCheck::~CastCheck() = default;

void CastCheck::start(Stream stream) {
  rehearse::kernels::start(state_->of, state_->operands.device(), state_->target.kernels, stream);
}

Outcome CastCheck::check() {
  Outcome out;
  out.name = state_->of.name;
  try {
    for (int run = 0; run < 2; ++run) {
      state_->target.vary(run);
      state_->operands.reset();
      start({});
      state_->target.synchronize();
      if (state_->target.runs()) state_->operands.compare();
    }
    state_->operands.check_guards();
    out.passed = true;
    out.found = state_->target.runs() ? "equal to the bit" : "prepared";
  } catch (const std::exception& e) {
    out.found = e.what();
  }
  return out;
}

Outcome check_cast(const CastCase& c, Target& target) {
  return CastCheck(c, target).check();
}

}  // namespace rehearse::kernels
