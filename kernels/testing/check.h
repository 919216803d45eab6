#pragma once
// What every kernel's check shares: seeded inputs with guard values around the outputs, comparison
// with a double reference within a derived bound, and gradients against central differences.

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace rehearse::kernels {

// Values whose seed is the test's name, so that a failure repeats.
class Inputs {
 public:
  Inputs() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    const std::string name = std::string(info->test_suite_name()) + info->name();
    std::seed_seq seed(name.begin(), name.end());
    random_.seed(seed);
  }
  std::vector<double> normal(int64_t n, double scale = 1) {
    std::normal_distribution<double> d(0, scale);
    std::vector<double> v(static_cast<size_t>(n));
    // Floats exactly, so that both precisions start from the same numbers.
    for (double& x : v) x = static_cast<double>(static_cast<float>(d(random_)));
    return v;
  }
  std::vector<int32_t> indices(int64_t n, int64_t below) {
    std::uniform_int_distribution<int32_t> d(0, static_cast<int32_t>(below - 1));
    std::vector<int32_t> v(static_cast<size_t>(n));
    for (int32_t& x : v) x = d(random_);
    return v;
  }

 private:
  std::mt19937_64 random_;
};

inline std::vector<float> floats(const std::vector<double>& v) {
  return {v.begin(), v.end()};
}

// An output buffer between guard values; the destructor checks that the guards still stand.
class Guarded {
 public:
  explicit Guarded(int64_t n, float initial = NAN)
      : values_(static_cast<size_t>(n + 2 * kGuard), kMark) {
    std::fill(values_.begin() + kGuard, values_.end() - kGuard, initial);
  }
  ~Guarded() {
    for (int64_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(values_[static_cast<size_t>(i)], kMark) << "written before the buffer";
      EXPECT_EQ(values_[values_.size() - 1 - static_cast<size_t>(i)], kMark)
          << "written behind the buffer";
    }
  }
  float* data() { return values_.data() + kGuard; }
  float operator[](int64_t i) const { return values_[static_cast<size_t>(i + kGuard)]; }

 private:
  static constexpr int64_t kGuard = 16;
  static constexpr float kMark = 12345.0f;
  std::vector<float> values_;
};

// |got - want| <= bound * max(1, |want|) everywhere, and some of it is not zero; prints the worst
// coordinate.
inline void expect_close(const float* got,
                         const std::vector<double>& want,
                         double bound,
                         const std::string& what) {
  double worst = 0;
  size_t where = 0;
  double energy = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    energy += want[i] * want[i];
    const double error =
        std::abs(static_cast<double>(got[i]) - want[i]) / std::max(1.0, std::abs(want[i]));
    if (!(error <= worst)) {
      worst = error;
      where = i;
    }
  }
  EXPECT_GT(energy, 0) << what << " is all zero: the case tests nothing";
  EXPECT_LE(worst, bound) << what << "[" << where << "] is " << got[where] << ", reference "
                          << want[where];
}

// The rounding error of a sum of n products of unit size and random sign in FP32: the sum is of
// size sqrt(n), each of the n additions rounds it (2^-24 of its size), and errors of random sign
// grow with another sqrt(n); the factor 8 covers the tail.
inline double sum_bound(int64_t n) {
  return 8 * static_cast<double>(std::max<int64_t>(1, n)) * std::ldexp(1.0, -24);
}

// Checks d_x, the gradient of sum(dy * f(x)), against central differences of the reference f along
// random directions. Rounding of d_x's FP32 arithmetic allows `bound` relative to |d_x| |v|.
inline void expect_gradient(Inputs& inputs,
                            const std::function<std::vector<double>(const std::vector<double>&)>& f,
                            const std::vector<double>& x,
                            const std::vector<double>& dy,
                            const float* d_x,
                            double bound,
                            const std::string& what) {
  double norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    norm += static_cast<double>(d_x[i]) * static_cast<double>(d_x[i]);
  }
  norm = std::sqrt(norm);
  EXPECT_GT(norm, 0) << what << " is all zero: the case tests nothing";
  for (int trial = 0; trial < 8; ++trial) {
    const std::vector<double> v = inputs.normal(static_cast<int64_t>(x.size()));
    constexpr double kStep = 1e-5;
    std::vector<double> plus = x;
    std::vector<double> minus = x;
    double v_norm = 0;
    double predicted = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      plus[i] += kStep * v[i];
      minus[i] -= kStep * v[i];
      v_norm += v[i] * v[i];
      predicted += static_cast<double>(d_x[i]) * v[i];
    }
    const std::vector<double> up = f(plus);
    const std::vector<double> down = f(minus);
    double measured = 0;
    for (size_t i = 0; i < dy.size(); ++i) measured += dy[i] * (up[i] - down[i]) / (2 * kStep);
    EXPECT_NEAR(predicted, measured, bound * norm * std::sqrt(v_norm) + 1e-7) << what;
  }
}

}  // namespace rehearse::kernels
