// How far products of FP8 are from the exact ones of their codes, by what the accumulator keeps and
// how often it is promoted: a CSV row per setting (experiments/fp8-accumulation).

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/random.h"
#include "kernels/fp8_accumulation/fp8_accumulation.h"
#include "kernels/quantize/quantize.h"

namespace rehearse::kernels {
namespace {

constexpr int64_t kRows = 48;  // of both operands

enum class Values { kOneSign, kNormal };

// Codes in tiles of 1x128, and what they stand for.
struct Operand {
  Operand(int64_t k, Values kind, uint64_t seed) {
    std::vector<float> x(static_cast<size_t>(kRows * k));
    Random random(seed);
    for (float& v : x) {
      v = static_cast<float>(kind == Values::kOneSign ? random.uniform() : random.normal());
    }
    codes.resize(x.size());
    values.resize(x.size());
    scales.resize(static_cast<size_t>((k + kScaleBlock - 1) / kScaleBlock * kRows));
    quantize_rows(kRows, k, x.data(), {}, codes.data(), scales.data(), kRows);
    dequantize_rows(kRows, k, codes.data(), scales.data(), kRows, values.data());
  }
  ScaledCodes scaled() const {
    return ScaledCodes::of_tiles(kRows, codes.data(), scales.data(), kRows);
  }
  std::vector<uint8_t> codes;
  std::vector<float> scales, values;
};

struct Error {
  double rms = 0;      // of the error over that of the exact results
  double largest = 0;  // of |error| over |exact|, results below a tenth of their rms left out
};

Error error_of(const std::vector<float>& got, const std::vector<double>& exact) {
  double squares = 0, all = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    squares += std::pow(static_cast<double>(got[i]) - exact[i], 2);
    all += exact[i] * exact[i];
  }
  Error e{.rms = std::sqrt(squares / all)};
  const double least = 0.1 * std::sqrt(all / static_cast<double>(exact.size()));
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::abs(exact[i]) < least) continue;
    e.largest = std::max(e.largest, std::abs((static_cast<double>(got[i]) - exact[i]) / exact[i]));
  }
  return e;
}

void study(int64_t k, Values kind) {
  const Operand a(k, kind, 1), b(k, kind, 2);
  std::vector<double> exact;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kRows; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += static_cast<double>(a.values[static_cast<size_t>(i * k + l)]) *
               static_cast<double>(b.values[static_cast<size_t>(j * k + l)]);
      }
      exact.push_back(sum);
    }
  }
  std::vector<float> y(exact.size());
  for (const int bits : {13, 14, 15}) {
    for (const int64_t promotion : {32, 64, 128, 256, 512, 1024, 4096, 0}) {
      if (promotion >= k) continue;
      fp8_product(
          k, a.scaled(), b.scaled(), {.bits = bits, .promotion = promotion}, false, y.data());
      const Error e = error_of(y, exact);
      fmt::print("{},{},{},{},{:.6g},{:.6g}\n",
                 kind == Values::kOneSign ? "one sign" : "normal",
                 k,
                 bits,
                 promotion,
                 e.rms,
                 e.largest);
    }
  }
}

}  // namespace
}  // namespace rehearse::kernels

int main() {
  fmt::print("values,k,bits,promotion,rms,largest\n");
  for (const auto kind :
       {rehearse::kernels::Values::kOneSign, rehearse::kernels::Values::kNormal}) {
    for (const int64_t k : {256, 1024, 2048, 4096, 7168, 16384}) rehearse::kernels::study(k, kind);
  }
  return EXIT_SUCCESS;
}
