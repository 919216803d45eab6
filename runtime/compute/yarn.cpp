#include "runtime/compute/yarn.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rehearse {
namespace {

double size_factor(double scale, double mscale) {
  return scale <= 1 ? 1 : 0.1 * mscale * std::log(scale) + 1;
}

}  // namespace

std::vector<double> rope_frequencies(const Model& model) {
  const Architecture& a = model.architecture;
  const auto width = static_cast<double>(a.qk_rope);
  // The pair that turns so many times over the original length.
  const auto pair_of = [&](const Yarn& y, double turns) {
    return width *
           std::log(static_cast<double>(y.original_length) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(a.rope_theta));
  };
  std::vector<double> frequencies;
  for (int64_t p = 0; p < a.qk_rope / 2; ++p) {
    const auto pair = static_cast<double>(p);
    double f = std::pow(a.rope_theta, -2 * pair / width);
    if (model.yarn) {
      const Yarn& y = *model.yarn;
      const double first = pair_of(y, y.beta_fast), last = pair_of(y, y.beta_slow);
      const double low = std::max(0.0, y.truncate ? std::floor(first) : first);
      double high = std::min(width - 1, y.truncate ? std::ceil(last) : last);
      if (low == high) high += 0.001;
      // 0: turns fast enough and stays; 1: is stretched.
      const double stretched = std::clamp((pair - low) / (high - low), 0.0, 1.0);
      f = f / y.factor * stretched + f * (1 - stretched);
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

double rope_amplitude(const Model& model) {
  if (!model.yarn) return 1;
  const Yarn& y = *model.yarn;
  if (y.attention_factor) return *y.attention_factor;
  if (y.mscale.value_or(0) != 0 && y.mscale_all_dim.value_or(0) != 0) {
    return size_factor(y.factor, *y.mscale) / size_factor(y.factor, *y.mscale_all_dim);
  }
  return size_factor(y.factor, 1);
}

double softmax_factor(const Model& model) {
  if (!model.yarn || model.yarn->mscale_all_dim.value_or(0) == 0) return 1;
  const double m = size_factor(model.yarn->factor, *model.yarn->mscale_all_dim);
  return m * m;
}

}  // namespace rehearse
