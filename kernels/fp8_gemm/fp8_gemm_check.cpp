#include "kernels/fp8_gemm/fp8_gemm_check.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "base/integers.h"

namespace rehearse::kernels {
namespace {

constexpr uint8_t kNanCode = 0x7f;
constexpr int64_t kAllElements = 300000;  // of an output: all are compared, else:
constexpr size_t kSomeElements = 2048;
constexpr uint8_t kUntouched[2] = {0x12, 0x34};  // bytes of what is not to be written, by run

constexpr size_t kTable = 1 << 18;
constexpr size_t kRun = 4096;  // values that are copied from the table at once

// Values from anywhere in a table, in runs: neighbours are independent, and what is kRun apart is
// too.
template <class T>
std::vector<T> draw(const std::vector<T>& table, int64_t count, std::mt19937_64& random) {
  std::vector<T> out;
  out.reserve(static_cast<size_t>(count));
  while (out.size() < static_cast<size_t>(count)) {
    const size_t run = std::min(kRun, static_cast<size_t>(count) - out.size());
    const auto first = table.begin() + static_cast<int64_t>(random() % (table.size() - run + 1));
    out.insert(out.end(), first, first + static_cast<int64_t>(run));
  }
  return out;
}

// Small integers other than 0, or a normal distribution cut at the largest code.
const std::vector<uint8_t>& codes_to_draw(GemmInputs inputs) {
  const auto make = [](GemmInputs kind) {
    std::mt19937_64 random = random_of(kind == GemmInputs::kExact ? "small codes" : "codes");
    std::normal_distribution<float> normal(0, kE4m3Max / 4);
    std::vector<uint8_t> table(kTable);
    for (uint8_t& code : table) {
      constexpr float kSmall[] = {-3, -2, -1, 1, 2, 3};
      code = to_e4m3(kind == GemmInputs::kExact ? kSmall[random() % 6] : normal(random));
    }
    return table;
  };
  static const std::vector<uint8_t> kExact = make(GemmInputs::kExact);
  static const std::vector<uint8_t> kRandom = make(GemmInputs::kRandom);
  return inputs == GemmInputs::kExact ? kExact : kRandom;
}

std::vector<uint8_t> draw_codes(int64_t count, GemmInputs inputs, std::mt19937_64& random) {
  return draw(codes_to_draw(inputs), count, random);
}

std::vector<float> draw_scales(int64_t count, std::mt19937_64& random) {
  static const std::vector<float> kScales = [] {
    std::mt19937_64 r = random_of("scales");
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> table(kTable);
    for (float& s : table) s = std::exp(normal(r)) / 1024;
    return table;
  }();
  return draw(kScales, count, random);
}

// Small cases leave a gap between rows of scales, large ones none, as cuBLASLt wants it.
int64_t stride_of(int64_t n) {
  return round_up(n, 4) + (n < 500 ? 4 : 0);
}
int64_t a_stride(const GemmCase& c) {
  return stride_of(c.m);
}
int64_t b_stride(const GemmCase& c) {
  return stride_of(c.n);
}

std::vector<float> make_b_scales(const GemmCase& c, std::mt19937_64& random) {
  const int64_t k_blocks = ceil_div(c.k, kScaleBlock);
  return draw_scales(c.weight_gradient ? k_blocks * b_stride(c)
                                       : c.groups() * ceil_div(c.n, kScaleBlock) * k_blocks,
                     random);
}

// Visits every row (or token) of padding: index.
template <class Visit>
void for_padding(const GemmCase& c, Visit visit) {
  int64_t begin = 0;
  for (const int32_t rows : c.rows) {
    const int64_t end = begin + round_up(rows, kScaleBlock);
    for (int64_t i = begin + rows; i < end; ++i) visit(i);
    begin = end;
  }
  if (c.rows.empty()) return;
  for (int64_t i = begin; i < (c.weight_gradient ? c.k : c.m); ++i) visit(i);
}

size_t y_count(const GemmCase& c) {
  return static_cast<size_t>(c.weight_gradient ? 1 : c.m * c.n);
}

// Rows of y up to the last group's end; of weight gradients, for which y is one element, none.
int64_t written_rows(const GemmCase& c) {
  if (c.weight_gradient) return 0;
  if (c.rows.empty()) return c.m;
  int64_t rows = 0;
  for (const int32_t r : c.rows) rows += round_up(r, kScaleBlock);
  return rows;
}

std::vector<ExpectedElement> elements_to_compare(const GemmCase& c) {
  // Rows of each group that hold results.
  std::vector<std::array<int64_t, 3>> spans;  // group, first row, rows
  int64_t begin = 0;
  int64_t rows = 0;
  for (int g = 0; g < c.groups(); ++g) {
    const int64_t count =
        c.weight_gradient || c.rows.empty() ? c.m : c.rows[static_cast<size_t>(g)];
    spans.push_back({g, c.weight_gradient ? 0 : begin, count});
    begin += round_up(count, kScaleBlock);
    rows += count;
  }
  std::vector<ExpectedElement> list;
  const auto add = [&](int64_t group, int64_t row, int64_t column) {
    list.push_back({static_cast<int>(group), row, column, 0, 0, {}});
  };
  if (rows * c.n <= kAllElements) {
    for (const auto& [g, first, count] : spans) {
      for (int64_t i = 0; i < count * c.n; ++i) add(g, first + i / c.n, i % c.n);
    }
    return list;
  }
  std::mt19937_64 random = random_of(c.name + " places");
  const auto pick = [&](int64_t count) {
    const uint64_t r = random();
    return r % 8 == 0 ? 0 : r % 8 == 1 ? count - 1 : static_cast<int64_t>((r >> 3) % count);
  };
  while (list.size() < kSomeElements) {
    const auto& [g, first, count] = spans[random() % spans.size()];
    if (count > 0) add(g, first + pick(count), pick(c.n));
  }
  return list;
}

}  // namespace

GemmData::GemmData(const GemmCase& c, GemmInputs inputs) : case_(c), inputs_(inputs) {
  const auto random = [&](const char* what) { return random_of(c.name + what); };
  std::mt19937_64 of_a = random(" a");
  std::mt19937_64 of_b = random(" b");
  std::mt19937_64 of_a_scales = random(" a scales");
  std::mt19937_64 of_b_scales = random(" b scales");
  std::mt19937_64 of_dw = random(" dw");
  a_ = draw_codes(c.m * c.k, inputs, of_a);
  b_ = draw_codes((c.weight_gradient ? 1 : c.groups()) * c.n * c.k, inputs, of_b);
  // Padding rows may hold anything, padding tokens must be zero.
  for_padding(c, [&](int64_t i) {
    if (!c.weight_gradient) {
      std::fill_n(a_.begin() + i * c.k, c.k, kNanCode);
      return;
    }
    for (int64_t j = 0; j < c.m; ++j) a_[static_cast<size_t>(j * c.k + i)] = 0;
    for (int64_t j = 0; j < c.n; ++j) b_[static_cast<size_t>(j * c.k + i)] = 0;
  });
  a_scales_ = draw_scales(ceil_div(c.k, kScaleBlock) * a_stride(c), of_a_scales);
  b_scales_ = make_b_scales(c, of_b_scales);
  dw_ = c.weight_gradient ? draw_scales(c.groups() * c.m * c.n, of_dw) : std::vector<float>(1);
}

Fp8Product GemmData::product() const {
  Fp8Product p;
  p.x = a_.data(), p.x_scales = a_scales_.data(), p.x_scale_stride = a_stride(case_);
  p.w = b_.data(), p.w_scales = b_scales_.data();
  p.m = case_.m, p.n = case_.n, p.k = case_.k;
  p.groups = case_.groups(), p.sms = case_.sms;
  p.rows = case_.rows.empty() ? nullptr : case_.rows.data();
  return p;
}

Fp8WeightGradient GemmData::gradient() const {
  Fp8WeightGradient p;
  p.dy = a_.data(), p.dy_scales = a_scales_.data(), p.dy_scale_stride = a_stride(case_);
  p.x = b_.data(), p.x_scales = b_scales_.data(), p.x_scale_stride = b_stride(case_);
  p.m = case_.m, p.n = case_.n, p.tokens = case_.k;
  p.groups = case_.groups(), p.sms = case_.sms;
  p.rows = case_.rows.empty() ? nullptr : case_.rows.data();
  return p;
}

const std::vector<ExpectedElement>& GemmData::expected() const {
  if (!expected_.empty()) return expected_;
  expected_ = elements_to_compare(case_);
  const Fp8Product p = product();
  const Fp8WeightGradient w = gradient();
  for (ExpectedElement& e : expected_) {
    const auto sum = [&](BlockSums sums) {
      return case_.weight_gradient ? fp8_weight_gradient_element(w, e.group, e.row, e.column, sums)
                                   : fp8_gemm_element(p, e.group, e.row, e.column, sums);
    };
    e.sum = sum(BlockSums::kExact);
    if (inputs_ == GemmInputs::kExact) continue;
    e.model = sum(BlockSums::kTensorCore);
    e.error = case_.weight_gradient ? fp8_weight_gradient_error(w, e.group, e.row, e.column)
                                    : fp8_gemm_error(p, e.group, e.row, e.column);
  }
  return expected_;
}

GemmOperands::GemmOperands(const GemmData& data, Target& target)
    : data_(data),
      target_(target),
      a_(target, data.a_),
      b_(target, data.b_),
      a_scales_(target, data.a_scales_),
      b_scales_(target, data.b_scales_),
      rows_(target, data.of().rows.empty() ? std::vector<int32_t>{0} : data.of().rows),
      y_{{target, y_count(data.of())}, {target, y_count(data.of())}},
      dw_before_(target, data.dw_),
      dw_{{target, data.dw_.size()}, {target, data.dw_.size()}} {
  product_ = data.product();
  product_.x = a_.get(), product_.x_scales = a_scales_.get();
  product_.w = b_.get(), product_.w_scales = b_scales_.get();
  product_.y = y_[0].get();
  gradient_ = data.gradient();
  gradient_.dy = a_.get(), gradient_.dy_scales = a_scales_.get();
  gradient_.x = b_.get(), gradient_.x_scales = b_scales_.get();
  gradient_.dw = dw_[0].get();
  if (!data.of().rows.empty()) product_.rows = gradient_.rows = rows_.get();
}

void GemmOperands::start(const KernelSet& kernels, const TileShape& shape, Stream stream) {
  if (data_.of().weight_gradient) {
    kernels.fp8_weight_gradient(gradient_, shape, stream);
  } else {
    kernels.fp8_gemm(product_, shape, stream);
  }
}

void GemmOperands::run(const KernelSet& kernels, const TileShape& shape, int result) {
  const auto r = static_cast<size_t>(result);
  target_.fill(y_[r].get(), kUntouched[r], y_count(data_.of()) * sizeof(Bf16));
  target_.copy(dw_[r].get(), dw_before_.get(), data_.dw_.size() * sizeof(float));
  Fp8Product p = product_;
  Fp8WeightGradient w = gradient_;
  p.y = y_[r].get(), w.dw = dw_[r].get();
  if (data_.of().weight_gradient) {
    kernels.fp8_weight_gradient(w, shape, {});
  } else {
    kernels.fp8_gemm(p, shape, {});
  }
}

bool GemmOperands::same_results() const {
  const GemmCase& c = data_.of();
  return target_.same(
             y_[0].get(), y_[1].get(), static_cast<size_t>(written_rows(c) * c.n) * sizeof(Bf16)) &&
         target_.same(dw_[0].get(), dw_[1].get(), data_.dw_.size() * sizeof(float));
}

void GemmOperands::check_guards() const {
  a_.check_guards();
  b_.check_guards();
  a_scales_.check_guards();
  b_scales_.check_guards();
  rows_.check_guards();
  dw_before_.check_guards();
  for (size_t i = 0; i < 2; ++i) {
    y_[i].check_guards();
    dw_[i].check_guards();
  }
}

namespace {

// What lies outside all groups must be as it was.
void require_untouched(const GemmCase& c, const DeviceArray<Bf16>& y) {
  const auto begin = static_cast<size_t>(written_rows(c) * c.n);
  const std::vector<Bf16> rest = y.values(begin, y_count(c) - begin);
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i].bits != kUntouched[0] * 0x101) {
      throw std::runtime_error("wrote row " +
                               std::to_string((begin + i) / static_cast<size_t>(c.n)) +
                               ", behind the last group");
    }
  }
}

// Some elements of an array on the target, all fetched at once where they are most of it.
template <class T>
class Fetched {
 public:
  Fetched(const DeviceArray<T>& array, size_t count, bool all) : array_(array) {
    if (all) values_ = array.values(0, count);
  }
  T at(size_t i) const { return values_.empty() ? array_.values(i, 1)[0] : values_[i]; }

 private:
  const DeviceArray<T>& array_;
  std::vector<T> values_;
};

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[160];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

void compare_result(const GemmData& data,
                    const GemmOperands& operands,
                    bool modelled,
                    Outcome& out) {
  const GemmCase& c = data.of();
  const bool all = data.expected().size() != kSomeElements;
  const Fetched<Bf16> y(operands.y(), y_count(c), all && !c.weight_gradient);
  const Fetched<float> dw(operands.dw(), data.dw_before().size(), all && c.weight_gradient);
  const auto index = [&](const ExpectedElement& e) {
    return static_cast<size_t>((c.weight_gradient ? e.group * c.m + e.row : e.row) * c.n +
                               e.column);
  };
  // The result that follows from a sum, as the kernel writes it.
  const auto written = [&](const ExpectedElement& e, float sum) {
    return c.weight_gradient ? data.dw_before()[index(e)] + sum : to_float(to_bf16(sum));
  };
  double square = 0, expected = 0, energy = 0, differing = 0, largest = 0;
  for (const ExpectedElement& e : data.expected()) {
    const float want = written(e, e.sum);
    const float got = c.weight_gradient ? dw.at(index(e)) : to_float(y.at(index(e)));
    const auto where = [&] {
      return " at group " + std::to_string(e.group) + ", row " + std::to_string(e.row) +
             ", column " + std::to_string(e.column);
    };
    energy += std::abs(static_cast<double>(e.sum));
    if (data.inputs() == GemmInputs::kExact) {
      if (!(got == want)) {
        throw std::runtime_error(formatted("%.9g, exactly %.9g", got, want) + where());
      }
      continue;
    }
    const float model = written(e, e.model);
    if (got != model) {
      if (modelled) {
        throw std::runtime_error(formatted("%.9g, the tensor cores' model has %.9g", got, model) +
                                 where());
      }
      ++differing;
      largest = std::max(largest, std::abs(static_cast<double>(got - model)));
    }
    // Against the sum before it is rounded: half a unit in the last of BF16's 8 or FP32's 24 bits.
    const double exact =
        static_cast<double>(e.sum) + (c.weight_gradient ? static_cast<double>(written(e, 0)) : 0);
    const double rounding =
        std::ldexp(std::abs(exact) + e.error.bound, c.weight_gradient ? -24 : -8);
    const double error = std::abs(static_cast<double>(got) - exact);
    const double share = error / (e.error.bound + rounding);
    if (!(share <= 1)) {
      throw std::runtime_error(formatted("%.9g, reference %.9g", got, exact) + where() +
                               formatted(": %.3g times the bound", share));
    }
    out.worst = std::max(out.worst, share);
    square += error * error;
    expected += e.error.variance + rounding * rounding / 3;
  }
  if (c.used() > 0 && energy == 0) throw std::runtime_error("the case is all zero");
  const auto count = static_cast<double>(std::max<size_t>(data.expected().size(), 1));
  if (data.inputs() == GemmInputs::kExact) {
    out.found = formatted("%.0f elements equal to the bit", count);
    return;
  }
  out.rms = expected > 0 ? std::sqrt(square / expected) : 0;
  if (out.rms > 2) {
    throw std::runtime_error(formatted("errors are %.3g times the expected", out.rms));
  }
  out.found =
      formatted("worst %.3g of its bound, all together %.3g of the expected", out.worst, out.rms) +
      formatted("; not as modelled: %.2f%%, by up to %.3g", 100 * differing / count, largest);
}

}  // namespace

Outcome check_gemm(const GemmData& data,
                   GemmOperands& operands,
                   const TileShape& shape,
                   Target& target,
                   const KernelSet& kernels,
                   bool modelled) {
  Outcome out;
  out.name = data.of().name + " (" + to_string(shape) + ", " +
             (data.inputs() == GemmInputs::kExact ? "exact" : "random") + ")";
  try {
    data.expected();
    for (int run = 0; run < 2; ++run) {
      target.vary(run);
      operands.run(kernels, shape, run);
      target.synchronize();
    }
    if (!target.runs()) {
      out.found = "prepared";
    } else {
      if (!data.of().weight_gradient) require_untouched(data.of(), operands.y());
      compare_result(data, operands, modelled, out);
      if (!operands.same_results()) {
        throw std::runtime_error("a second run gives other bits, or not all is written");
      }
    }
    operands.check_guards();
    out.passed = true;
  } catch (const std::exception& e) {
    out.found = e.what();
  }
  return out;
}

Outcome check_gemm(
    const GemmCase& c, const TileShape& shape, GemmInputs inputs, Target& target, bool modelled) {
  const GemmData data(c, inputs);
  GemmOperands operands(data, target);
  return check_gemm(data, operands, shape, target, target.kernels, modelled);
}

}  // namespace rehearse::kernels
