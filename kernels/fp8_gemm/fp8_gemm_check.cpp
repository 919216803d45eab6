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
constexpr int64_t kAllElements = 300000;  // of an output: all are compared, else this many / 32
constexpr uint16_t kUntouched = 0x1234;

// 256 codes to draw from: small integers other than 0, or a normal distribution cut at the largest
// code.
std::array<uint8_t, 256> codes_to_draw(GemmInputs inputs, std::mt19937_64& random) {
  std::array<uint8_t, 256> codes{};
  std::normal_distribution<float> normal(0, kE4m3Max / 4);
  for (uint8_t& code : codes) {
    constexpr float kSmall[] = {-3, -2, -1, 1, 2, 3};
    code = to_e4m3(inputs == GemmInputs::kExact ? kSmall[random() % 6] : normal(random));
  }
  return codes;
}

std::vector<uint8_t> draw_codes(int64_t count, GemmInputs inputs, std::mt19937_64& random) {
  const std::array<uint8_t, 256> codes = codes_to_draw(inputs, random);
  std::vector<uint8_t> out(static_cast<size_t>(count));
  uint64_t bits = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    if (i % 8 == 0) bits = random();
    out[i] = codes[bits & 255];
    bits >>= 8;
  }
  return out;
}

std::vector<float> draw_scales(int64_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& s : out) s = std::exp(normal(random)) / 1024;
  return out;
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

}  // namespace

GemmOperands::GemmOperands(const GemmCase& c, GemmInputs inputs, Target& target)
    : case_(c),
      target_(target),
      a_([&] {
        std::mt19937_64 random = random_of(c.name + " a");
        std::vector<uint8_t> a = draw_codes(c.m * c.k, inputs, random);
        // Padding rows may hold anything, padding tokens must be zero.
        for_padding(c, [&](int64_t i) {
          for (int64_t j = 0; j < (c.weight_gradient ? c.m : c.k); ++j) {
            a[static_cast<size_t>(c.weight_gradient ? j * c.k + i : i * c.k + j)] =
                c.weight_gradient ? 0 : kNanCode;
          }
        });
        return a;
      }()),
      b_([&] {
        std::mt19937_64 random = random_of(c.name + " b");
        std::vector<uint8_t> b =
            draw_codes((c.weight_gradient ? 1 : c.groups()) * c.n * c.k, inputs, random);
        if (c.weight_gradient) {
          for_padding(c, [&](int64_t i) {
            for (int64_t j = 0; j < c.n; ++j) b[static_cast<size_t>(j * c.k + i)] = 0;
          });
        }
        return b;
      }()),
      a_scales_([&] {
        std::mt19937_64 random = random_of(c.name + " a scales");
        return draw_scales(ceil_div(c.k, kScaleBlock) * a_stride(c), random);
      }()),
      b_scales_([&] {
        std::mt19937_64 random = random_of(c.name + " b scales");
        return make_b_scales(c, random);
      }()),
      dw_(c.weight_gradient ? [&] {
        std::mt19937_64 random = random_of(c.name + " dw");
        return draw_scales(c.groups() * c.m * c.n, random);
      }() : std::vector<float>(1)),
      y_(static_cast<size_t>(c.weight_gradient ? 1 : c.m * c.n), Bf16{kUntouched}),
      a_device_(target, a_),
      b_device_(target, b_),
      a_scales_device_(target, a_scales_),
      b_scales_device_(target, b_scales_),
      rows_device_(target, c.rows.empty() ? std::vector<int32_t>{0} : c.rows),
      y_device_(target, y_),
      dw_device_(target, dw_) {
  product_ = host_product();
  product_.x = a_device_.get(), product_.x_scales = a_scales_device_.get();
  product_.w = b_device_.get(), product_.w_scales = b_scales_device_.get();
  product_.y = y_device_.get();
  gradient_ = host_gradient();
  gradient_.dy = a_device_.get(), gradient_.dy_scales = a_scales_device_.get();
  gradient_.x = b_device_.get(), gradient_.x_scales = b_scales_device_.get();
  gradient_.dw = dw_device_.get();
  if (!c.rows.empty()) product_.rows = gradient_.rows = rows_device_.get();
}

Fp8Product GemmOperands::host_product() const {
  Fp8Product p;
  p.x = a_.data(), p.x_scales = a_scales_.data(), p.x_scale_stride = a_stride(case_);
  p.w = b_.data(), p.w_scales = b_scales_.data();
  p.m = case_.m, p.n = case_.n, p.k = case_.k;
  p.groups = case_.groups(), p.sms = case_.sms;
  p.rows = case_.rows.empty() ? nullptr : case_.rows.data();
  return p;
}

Fp8WeightGradient GemmOperands::host_gradient() const {
  Fp8WeightGradient p;
  p.dy = a_.data(), p.dy_scales = a_scales_.data(), p.dy_scale_stride = a_stride(case_);
  p.x = b_.data(), p.x_scales = b_scales_.data(), p.x_scale_stride = b_stride(case_);
  p.m = case_.m, p.n = case_.n, p.tokens = case_.k;
  p.groups = case_.groups(), p.sms = case_.sms;
  p.rows = case_.rows.empty() ? nullptr : case_.rows.data();
  return p;
}

void GemmOperands::reset() {
  target_.upload(y_device_.get(), y_.data(), y_.size() * sizeof(Bf16));
  target_.upload(dw_device_.get(), dw_.data(), dw_.size() * sizeof(float));
}

void GemmOperands::release() {
  a_device_.release();
  b_device_.release();
  a_scales_device_.release();
  b_scales_device_.release();
  rows_device_.release();
  y_device_.release();
  dw_device_.release();
}

namespace {

struct Place {
  int group;
  int64_t row, column;  // of y, or of dw[group]
};

std::vector<Place> places_to_compare(const GemmCase& c) {
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
  std::vector<Place> places;
  if (rows * c.n <= kAllElements) {
    for (const auto& [g, first, count] : spans) {
      for (int64_t i = 0; i < count * c.n; ++i) {
        places.push_back({static_cast<int>(g), first + i / c.n, i % c.n});
      }
    }
    return places;
  }
  std::mt19937_64 random = random_of(c.name + " places");
  const auto pick = [&](int64_t count) {
    const uint64_t r = random();
    return r % 8 == 0 ? 0 : r % 8 == 1 ? count - 1 : static_cast<int64_t>((r >> 3) % count);
  };
  while (static_cast<int64_t>(places.size()) < kAllElements / 32) {
    const auto& [g, first, count] = spans[random() % spans.size()];
    if (count > 0) places.push_back({static_cast<int>(g), first + pick(count), pick(c.n)});
  }
  return places;
}

// What lies outside all groups must be as it was.
void require_untouched(const GemmCase& c, const std::vector<Bf16>& y) {
  if (c.rows.empty() || c.weight_gradient) return;
  int64_t begin = 0;
  for (const int32_t rows : c.rows) begin += round_up(rows, kScaleBlock);
  for (size_t i = static_cast<size_t>(begin * c.n); i < y.size(); ++i) {
    if (y[i].bits != kUntouched) {
      throw std::runtime_error("wrote row " + std::to_string(i / static_cast<size_t>(c.n)) +
                               ", behind the last group");
    }
  }
}

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[160];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

void compare(const GemmCase& c,
             GemmInputs inputs,
             const GemmOperands& operands,
             const std::vector<Bf16>& y,
             const std::vector<float>& dw,
             bool modelled,
             Outcome& out) {
  const Fp8Product product = operands.host_product();
  const Fp8WeightGradient gradient = operands.host_gradient();
  const auto exact_at = [&](const Place& at, BlockSums sums) {
    return c.weight_gradient
               ? fp8_weight_gradient_element(gradient, at.group, at.row, at.column, sums)
               : fp8_gemm_element(product, at.group, at.row, at.column, sums);
  };
  // The result that follows from a sum, as the kernel writes it.
  const auto written = [&](const Place& at, float sum) {
    return c.weight_gradient ? operands.dw_before()[static_cast<size_t>(
                                   (at.group * c.m + at.row) * c.n + at.column)] +
                                   sum
                             : to_float(to_bf16(sum));
  };
  double square = 0, expected = 0, energy = 0, differing = 0, largest = 0;
  const std::vector<Place> places = places_to_compare(c);
  for (const Place& at : places) {
    const float sum = exact_at(at, BlockSums::kExact);
    const float want = written(at, sum);
    const float got = c.weight_gradient
                          ? dw[static_cast<size_t>((at.group * c.m + at.row) * c.n + at.column)]
                          : to_float(y[static_cast<size_t>(at.row * c.n + at.column)]);
    const std::string where = " at group " + std::to_string(at.group) + ", row " +
                              std::to_string(at.row) + ", column " + std::to_string(at.column);
    energy += std::abs(static_cast<double>(sum));
    if (inputs == GemmInputs::kExact) {
      if (!(got == want)) {
        throw std::runtime_error(formatted("%.9g, exactly %.9g", got, want) + where);
      }
      continue;
    }
    const float model = written(at, exact_at(at, BlockSums::kTensorCore));
    if (got != model) {
      if (modelled) {
        throw std::runtime_error(formatted("%.9g, the tensor cores' model has %.9g", got, model) +
                                 where);
      }
      ++differing;
      largest = std::max(largest, std::abs(static_cast<double>(got - model)));
    }
    const ElementError e = c.weight_gradient
                               ? fp8_weight_gradient_error(gradient, at.group, at.row, at.column)
                               : fp8_gemm_error(product, at.group, at.row, at.column);
    // Against the sum before it is rounded: half a unit in the last of BF16's 8 or FP32's 24 bits.
    const double exact =
        static_cast<double>(sum) + (c.weight_gradient ? static_cast<double>(written(at, 0)) : 0);
    const double rounding = std::ldexp(std::abs(exact) + e.bound, c.weight_gradient ? -24 : -8);
    const double error = std::abs(static_cast<double>(got) - exact);
    const double share = error / (e.bound + rounding);
    if (!(share <= 1)) {
      throw std::runtime_error(formatted("%.9g, reference %.9g", got, exact) + where +
                               formatted(": %.3g times the bound", share));
    }
    out.worst = std::max(out.worst, share);
    square += error * error;
    expected += e.variance + rounding * rounding / 3;
  }
  if (c.used() > 0 && energy == 0) throw std::runtime_error("the case is all zero");
  const auto count = static_cast<double>(std::max<size_t>(places.size(), 1));
  if (inputs == GemmInputs::kExact) {
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

Outcome check_gemm(
    const GemmCase& c, const TileShape& shape, GemmInputs inputs, Target& target, bool modelled) {
  Outcome out;
  out.name = c.name + " (" + to_string(shape) + ", " +
             (inputs == GemmInputs::kExact ? "exact" : "random") + ")";
  try {
    GemmOperands operands(c, inputs, target);
    std::vector<Bf16> y;
    std::vector<float> dw;
    for (int run = 0; run < 2; ++run) {
      target.vary(run);
      operands.reset();
      if (c.weight_gradient) {
        target.kernels.fp8_weight_gradient(operands.gradient(), shape, {});
      } else {
        target.kernels.fp8_gemm(operands.product(), shape, {});
      }
      target.synchronize();
      std::vector<Bf16> y_again = operands.y();
      std::vector<float> dw_again = operands.dw();
      if (run == 0) {
        y = std::move(y_again);
        dw = std::move(dw_again);
        require_untouched(c, y);
        compare(c, inputs, operands, y, dw, modelled, out);
      } else if (std::memcmp(y.data(), y_again.data(), y.size() * sizeof(Bf16)) != 0 ||
                 std::memcmp(dw.data(), dw_again.data(), dw.size() * sizeof(float)) != 0) {
        throw std::runtime_error("a second run gives other bits");
      }
    }
    operands.release();
    out.passed = true;
  } catch (const std::exception& e) {
    out.found = e.what();
  }
  return out;
}

}  // namespace rehearse::kernels
