#include "sim/price/product_table.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/errors.h"
#include "base/integers.h"
#include "base/random.h"

namespace rehearse {
namespace {

constexpr size_t kNeighbours = 8;
constexpr double kNear = 0.05;  // added to squared distances

struct Tile {
  int64_t m, n;
};
constexpr std::array<Tile, 4> kTiles = {{{128, 256}, {128, 128}, {256, 128}, {64, 256}}};

// How full the last of `units` units' rounds is, over all of them: 1 when they are all full.
double fullness(double units, double per_round) {
  return units / per_round / std::ceil(units / per_round);
}

}  // namespace

ProductTable::ProductTable(std::vector<MeasuredProduct> products,
                           Format format,
                           const GpuPeaks& peaks,
                           int64_t sms)
    : products_(std::move(products)), format_(format), peaks_(peaks), sms_(sms) {
  CHECK(!products_.empty()) << "a table of no products";
  for (const MeasuredProduct& p : products_) {
    features_.push_back(features(p.m, p.n, p.k));
    factors_.push_back(std::log(p.time.seconds() / ideal(p.m, p.n, p.k)));
  }
}

// Bytes are hidden behind arithmetic, or the other way round, but for a fifth; a kernel begins and
// ends in some microseconds.
double ProductTable::ideal(int64_t m, int64_t n, int64_t k) const {
  const GpuTask task = product_task(Family::kDense, format_, 1, m, n, k);
  const double arithmetic =
      (task.flops / (format_ == Format::kFp8 ? peaks_.fp8 : peaks_.bf16)).seconds();
  const double traffic = (task.bytes / peaks_.memory).seconds();
  constexpr double kNotHidden = 0.2, kEnds = 3e-6;
  return std::max(arithmetic, traffic) + kNotHidden * std::min(arithmetic, traffic) + kEnds;
}

ProductTable::Features ProductTable::features(int64_t m, int64_t n, int64_t k) const {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  // What is copied in vectors of eight where rows allow it.
  const bool aligned = m % 8 == 0;
  Features f{};
  size_t i = 0;
  const auto add = [&](double weight, double value) {
    f[i++] = static_cast<float>(weight * value);
  };
  add(1.5, std::log2(d(m)));
  add(1, std::log2(d(n)));
  add(0.7, std::log2(d(k)));
  add(4, aligned ? 0 : 1);
  for (const Tile& t : kTiles) {
    add(5, fullness(d(ceil_div(m, t.m) * ceil_div(n, t.n)), d(sms_)));
  }
  add(3, fullness(d(m), 128));
  add(3, fullness(d(n), 256));
  return f;
}

Duration ProductTable::time(int64_t m, int64_t n, int64_t k) const {
  for (const MeasuredProduct& p : products_) {
    if (p.m == m && p.n == n && p.k == k) return p.time;
  }
  return told(m, n, k, {});
}

Duration ProductTable::told(int64_t m, int64_t n, int64_t k, const LeftOut& left_out) const {
  const Features here = features(m, n, k);
  // The nearest, the farthest of them first.
  std::vector<std::pair<float, size_t>> nearest;
  for (size_t i = 0; i < products_.size(); ++i) {
    float distance = 0;
    for (size_t j = 0; j < kFeatures; ++j) {
      const float apart = features_[i][j] - here[j];
      distance += apart * apart;
    }
    if (nearest.size() == kNeighbours && distance >= nearest.front().first) continue;
    if (left_out && left_out(products_[i])) continue;
    if (nearest.size() == kNeighbours) {
      std::pop_heap(nearest.begin(), nearest.end());
      nearest.pop_back();
    }
    nearest.emplace_back(distance, i);
    std::push_heap(nearest.begin(), nearest.end());
  }
  CHECK(!nearest.empty()) << "all products are left out";
  double sum = 0, weights = 0;
  for (const auto& [distance, i] : nearest) {
    const double weight = 1 / (distance + kNear);
    sum += weight * factors_[i];
    weights += weight;
  }
  return Duration::seconds(ideal(m, n, k) * std::exp(sum / weights));
}

TableErrors leave_out_families(const ProductTable& table, Duration shortest, int64_t folds) {
  std::map<std::pair<int64_t, int64_t>, int64_t> fold_of;
  const auto fold = [&](const MeasuredProduct& p) {
    const auto [at, fresh] = fold_of.try_emplace({p.n, p.k});
    if (fresh) {
      const uint64_t mixed =
          split_mix(static_cast<uint64_t>(p.n) << 32 | static_cast<uint64_t>(p.k));
      at->second = static_cast<int64_t>(mixed % static_cast<uint64_t>(folds));
    }
    return at->second;
  };
  std::vector<double> errors;
  for (const MeasuredProduct& p : table.products()) {
    if (p.time < shortest) continue;
    const int64_t of = fold(p);
    const Duration told =
        table.told(p.m, p.n, p.k, [&](const MeasuredProduct& q) { return fold(q) == of; });
    errors.push_back(told / p.time - 1);
  }
  TableErrors e{.products = static_cast<int64_t>(errors.size())};
  if (errors.empty()) return e;
  for (double& error : errors) {
    e.bias += error / static_cast<double>(errors.size());
    error = std::abs(error);
    e.mean_absolute += error / static_cast<double>(errors.size());
  }
  const auto at = static_cast<ptrdiff_t>(0.95 * static_cast<double>(errors.size() - 1));
  std::nth_element(errors.begin(), errors.begin() + at, errors.end());
  e.percentile_95 = errors[static_cast<size_t>(at)];
  return e;
}

}  // namespace rehearse
