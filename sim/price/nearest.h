#pragma once
// What is told of one call of a kernel from those that were measured: kernels take like multiples
// of their ideal times where calls are alike.

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/units.h"

namespace rehearse {

// Where a call stands among others: equal steps in any entry are equally unlike. Unused entries
// are 0.
using ShapePoint = std::array<float, 10>;

// A point, its entries added one by one, each with a weight.
class PointBuilder {
 public:
  void add(double weight, double value) { point_[used_++] = static_cast<float>(weight * value); }
  const ShapePoint& point() const { return point_; }

 private:
  ShapePoint point_{};
  size_t used_ = 0;
};

// Measured factors (time over ideal time) at points. A point that was not measured has that of the
// eight nearest, in logarithms, each weighted by the inverse square of its distance.
class NearestFactors {
 public:
  void add(const ShapePoint& point, double factor);
  void finish();                                // all are there
  using LeftOut = std::function<bool(size_t)>;  // by order of add()
  // REQUIRES: finish(), and some that are not left out.
  double told(const ShapePoint& here, const LeftOut& left_out = {}) const;

 private:
  std::vector<ShapePoint> points_, sorted_;
  std::vector<size_t> order_;  // of sorted_
  std::vector<double> logs_;
};

// How full the last of so many rounds is, over all of them: 1 where all are full.
double fullness(double units, double per_round);

// Relative errors of what was told, over what was measured.
struct TableErrors {
  int64_t rows = 0;
  double mean_absolute = 0, percentile_95 = 0, bias = 0;
};
TableErrors errors_of(std::vector<double> errors);

template <typename Call>
struct Measured {
  Call call;
  Duration time;
};

// A table of measured calls: their own times, and what they tell of others. A kind of table is what
// it takes `ideal` to be, which calls are near (`point`), and which belong together when they are
// held out (`family`).
template <typename Call>
class NearestTable {
 public:
  using Rows = std::vector<Measured<Call>>;
  struct Kind {
    std::function<Duration(const Call&)> ideal;
    std::function<ShapePoint(const Call&)> point;
    std::function<uint64_t(const Call&)> family;
    uint64_t folds = 1009;  // families are dealt out to; so many: each stands by itself
  };
  using Picks = std::function<bool(const Measured<Call>&)>;

  // REQUIRES: some rows.
  NearestTable(Rows rows, Kind kind);

  // As measured, where the call is in the table; else told.
  Duration time(const Call& call) const;
  bool holds(const Call& call) const { return measured_.contains(call); }
  const Rows& rows() const { return rows_; }

  // Of how many families the rows are that `picks` takes: those of one cannot be judged.
  size_t families(const Picks& picks) const;
  // Of the rows that `picks` takes: each told from other families' alone. REQUIRES: several
  // families in the table.
  TableErrors judge(const Picks& picks) const;
  // Of another table's rows: each told from all of this one.
  TableErrors judge(const Picks& picks, const Rows& rows) const;

 private:
  Rows rows_;
  Kind kind_;
  NearestFactors factors_;
  std::map<Call, Duration> measured_;
};

// Rows' families, dealt out to at most so many folds; where all would be in one, each family is a
// fold of its own.
std::vector<uint64_t> dealt_out(std::vector<uint64_t> families, uint64_t folds);

template <typename Call>
NearestTable<Call>::NearestTable(Rows rows, Kind kind)
    : rows_(std::move(rows)), kind_(std::move(kind)) {
  CHECK(!rows_.empty()) << "a table of no rows";
  for (const Measured<Call>& r : rows_) {
    factors_.add(kind_.point(r.call), r.time / kind_.ideal(r.call));
    measured_.emplace(r.call, r.time);
  }
  factors_.finish();
}

template <typename Call>
Duration NearestTable<Call>::time(const Call& call) const {
  if (const auto found = measured_.find(call); found != measured_.end()) return found->second;
  return kind_.ideal(call).scaled(factors_.told(kind_.point(call)));
}

template <typename Call>
size_t NearestTable<Call>::families(const Picks& picks) const {
  std::set<uint64_t> all;
  for (const Measured<Call>& r : rows_) {
    if (picks(r)) all.insert(kind_.family(r.call));
  }
  return all.size();
}

template <typename Call>
TableErrors NearestTable<Call>::judge(const Picks& picks) const {
  std::vector<uint64_t> families;
  for (const Measured<Call>& r : rows_) families.push_back(kind_.family(r.call));
  const std::vector<uint64_t> fold = dealt_out(std::move(families), kind_.folds);
  std::vector<double> errors;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Measured<Call>& r = rows_[i];
    if (!picks(r)) continue;
    const double factor =
        factors_.told(kind_.point(r.call), [&](size_t other) { return fold[other] == fold[i]; });
    errors.push_back(kind_.ideal(r.call).scaled(factor) / r.time - 1);
  }
  return errors_of(std::move(errors));
}

template <typename Call>
TableErrors NearestTable<Call>::judge(const Picks& picks, const Rows& rows) const {
  std::vector<double> errors;
  for (const Measured<Call>& r : rows) {
    if (picks(r)) errors.push_back(time(r.call) / r.time - 1);
  }
  return errors_of(std::move(errors));
}

}  // namespace rehearse
