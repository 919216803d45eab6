#pragma once
// What checks of a layer's kernels have in common: numbers on a target, drawn, and held to what
// they may differ by.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/checking/target.h"
#include "kernels/layer_gpu/layer_check.h"

namespace rehearse::kernels {

inline constexpr double kEpsilon = 0x1p-24;  // of FP32, rounded to nearest

// Numbers on a target in one of the types, and what they are there.
class Numbers {
 public:
  Numbers(Target& target, std::vector<float> values, bool narrow) : values_(std::move(values)) {
    if (!narrow) {
      wide_ = std::make_unique<DeviceArray<float>>(target, values_);
      return;
    }
    std::vector<Bf16> bits;
    for (float& v : values_) {
      bits.push_back(to_bf16(v));
      v = to_float(bits.back());
    }
    narrow_ = std::make_unique<DeviceArray<Bf16>>(target, bits);
  }
  // Not written yet.
  Numbers(Target& target, size_t count, bool narrow) {
    if (narrow) {
      narrow_ = std::make_unique<DeviceArray<Bf16>>(target, count);
    } else {
      wide_ = std::make_unique<DeviceArray<float>>(target, count);
    }
  }
  operator ConstValues() const {
    return narrow_ ? ConstValues(narrow_->get()) : ConstValues(wide_->get());
  }
  Values to() const { return narrow_ ? Values(narrow_->get()) : Values(wide_->get()); }
  const float* fp32() const { return wide_->get(); }
  float* fp32() { return wide_->get(); }
  double operator[](int64_t i) const {
    return static_cast<double>(values_[static_cast<size_t>(i)]);
  }

  std::vector<float> read(size_t first, size_t count) const {
    if (wide_) return wide_->values(first, count);
    std::vector<float> out;
    for (const Bf16 b : narrow_->values(first, count)) out.push_back(to_float(b));
    return out;
  }
  void check_guards() const { wide_ ? wide_->check_guards() : narrow_->check_guards(); }

 private:
  std::vector<float> values_;
  std::unique_ptr<DeviceArray<float>> wide_;
  std::unique_ptr<DeviceArray<Bf16>> narrow_;
};

// What is wrong is worst where it is the largest share of what it may be.
class Judge {
 public:
  explicit Judge(std::string name) { outcome_.name = std::move(name); }

  // error: of FP32's arithmetic, absolute; a stored BF16 is rounded once more.
  void expect(const char* what, double got, double exact, double error, bool narrow) {
    const double bound = error + (narrow ? (std::abs(exact) + error) * 0x1p-8 : 0) + 1e-37;
    const double share = std::isfinite(got) ? std::abs(got - exact) / bound : INFINITY;
    if (share <= outcome_.worst) return;
    outcome_.worst = share;
    worst_ = std::string(what) + " " + std::to_string(got) + ", exact " + std::to_string(exact);
  }
  void expect_bits(bool same) {
    if (!same) wrong_ = "the second run gave other bits";
  }
  Outcome outcome() {
    outcome_.passed = wrong_.empty() && outcome_.worst <= 1;
    char text[48];
    std::snprintf(text, sizeof(text), "%.3g of the bound: ", outcome_.worst);
    outcome_.found = wrong_.empty() ? text + worst_ : wrong_;
    return outcome_;
  }

 private:
  Outcome outcome_;
  std::string worst_, wrong_;
};

class Draw {
 public:
  explicit Draw(const std::string& name) : random_(random_of(name)) {}
  std::vector<float> normal(int64_t count, double scale = 1) {
    std::normal_distribution<float> d(0, static_cast<float>(scale));
    std::vector<float> x(static_cast<size_t>(count));
    for (float& v : x) v = d(random_);
    return x;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }

 private:
  std::mt19937_64 random_;
};

// Runs `start` twice, in two orders of events, and compares what it wrote.
template <typename Start, typename Read>
std::vector<float> twice(Target& target, Judge& judge, Start start, Read read) {
  std::vector<float> first;
  for (int run = 0; run < 2; ++run) {
    target.vary(run);
    start();
    target.synchronize();
    const std::vector<float> now = read();
    if (run == 1) {
      judge.expect_bits(std::memcmp(first.data(), now.data(), now.size() * sizeof(float)) == 0);
    }
    first = now;
  }
  return first;
}

inline std::string named(const char* kernel, int64_t rows, int64_t width, bool narrow) {
  return std::string(kernel) + " " + std::to_string(rows) + " x " + std::to_string(width) +
         (narrow ? " BF16" : " FP32");
}

// Where nothing runs, it is only told of.
template <typename Run>
void add_check(std::vector<LayerCheck>& all, const std::string& name, Run run) {
  all.push_back({name, [=](Target& target) {
                   if (!target.runs()) {
                     return Outcome{.name = name, .passed = true, .found = "prepared"};
                   }
                   try {
                     return run(target);
                   } catch (const std::exception& e) {
                     return Outcome{.name = name, .found = e.what()};
                   }
                 }});
}

}  // namespace rehearse::kernels
