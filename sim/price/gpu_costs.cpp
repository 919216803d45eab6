#include "sim/price/gpu_costs.h"

#include <algorithm>
#include <cmath>

#include "base/statistics.h"
#include "sim/price/copied.h"

namespace rehearse {
namespace {

bool is_compute(const GpuEntry& e) {
  return !e.op || is_cell_compute(e.op->first);
}

// The rules' own constants; none is fitted to a measurement.
constexpr double kBusiest = 0.95;  // beyond it an M/M/1 queue's wait says nothing any more
constexpr int64_t kSameRows = 2;   // a product of less than so many times the rows is the same
constexpr double kNear = 0.05;     // squared log distance below which shapes count as one
constexpr double kNoShape = 2;     // squared log distance of a sum over products: a factor of 4
constexpr double kBesideOverAlone = 10;  // measured in place, a product tells more than alone

// How much longer a request waits at a server that is busy for such a share of the time (M/M/1).
double queueing(double busy) {
  const double most = std::min(busy, kBusiest);
  return most / (1 - most);
}

double seconds(const GpuEntry& e) {
  std::vector<double> times;
  for (const GpuEntry::Sample& s : e.samples) times.push_back(s.time.seconds());
  return median(times);
}

double sm_share(int64_t sms, int64_t communication) {
  return static_cast<double>(sms) / static_cast<double>(std::max<int64_t>(1, sms - communication));
}

}  // namespace

// Median over repetitions of measured over ideal time, on the device that was measured.
double GpuCosts::entry_factor(const GpuEntry& e) const {
  std::vector<double> factors;
  for (const GpuEntry::Sample& s : e.samples) {
    const GpuTask task{.kind = e.kind, .flops = s.flops, .bytes = s.bytes, .format = e.format};
    factors.push_back(s.time / ideal_time(task, calibration_.peaks));
  }
  return median(factors);
}

namespace {

// Median over all-to-alls beside computation of the rate at which they copied; none was measured:
// what the calibration says that SMs copy.
double measured_copying(const GpuCalibration& calibration) {
  std::vector<double> rates;
  for (const GpuEntry& e : calibration.entries) {
    if (e.kind != WorkKind::kData || !e.beside) continue;
    for (const GpuEntry::Sample& s : e.samples) {
      rates.push_back(static_cast<double>(s.bytes.count()) / s.time.seconds());
    }
  }
  return rates.empty() ? calibration.copy.value() : median(rates);
}

}  // namespace

double GpuCosts::copy_rate(const GpuCalibration& calibration, const Cluster& target) {
  const double measured = measured_copying(calibration);
  if (!target.copy_per_sm || calibration.copy.value() <= 0) return measured;
  return target.copy_per_sm->value() * static_cast<double>(target.communication_sms) *
         std::min(1.0, measured / calibration.copy.value());
}

GpuCosts::GpuCosts(const GpuCalibration& calibration,
                   const Cluster& target,
                   Launch launch,
                   std::optional<double> left)
    : calibration_(calibration) {
  peaks_ = {target.peak, target.peak_fp8.value_or(FlopsPerSecond()), target.memory_bandwidth};
  same_device_ =
      peaks_.bf16 == calibration_.peaks.bf16 && peaks_.memory == calibration_.peaks.memory;
  reference_share_ = sm_share(calibration_.sms, calibration_.communication_sms);
  share_ = sm_share(target.sms, target.communication_sms);
  if (launch == Launch::kSmsLeft) launch_share_ = share_;
  reference_memory_ = memory_left(measured_copying(calibration_), calibration_.peaks.memory);
  memory_ = left.value_or(memory_left(copy_rate(calibration_, target), target.memory_bandwidth));

  // Products measured both ways tell what contention is.
  std::vector<double> ratios;
  for (const GpuEntry& a : calibration_.entries) {
    if (a.kind != WorkKind::kProduct || a.beside || a.m == 0) continue;
    for (const GpuEntry& b : calibration_.entries) {
      if (b.kind != WorkKind::kProduct || !b.beside || b.family != a.family || b.n != a.n ||
          b.k != a.k || b.groups != a.groups) {
        continue;
      }
      ratios.push_back(entry_factor(b) / entry_factor(a) / reference_share_);
    }
  }
  if (!ratios.empty()) contention_ = std::max(1.0, median(ratios));
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kProduct) continue;
    const double factor = entry_factor(e);
    products_.push_back({&e, e.beside ? factor : factor * reference_share_ * contention_});
  }
  double gaps = 0;
  double work = 0;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.op && is_compute(e) && e.beside) (e.kind == WorkKind::kGap ? gaps : work) += seconds(e);
  }
  if (work > 0) gap_share_ = gaps / work;
  gaps_.resize(kOpKinds * kPasses);
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kGap || !e.op) continue;
    gaps_[op_index(e.op->first, e.op->second)] = Duration::seconds(seconds(e));
  }
  find_other_factors();
  find_spreads();
}

void GpuCosts::find_spreads() {
  // Repetition by repetition, all compute work over its median.
  size_t repetitions = SIZE_MAX;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.beside && is_compute(e)) repetitions = std::min(repetitions, e.samples.size());
  }
  if (repetitions != SIZE_MAX && repetitions > 1) {
    std::vector<double> sums(repetitions, 0);
    for (const GpuEntry& e : calibration_.entries) {
      if (!e.beside || !is_compute(e) || e.kind == WorkKind::kGap) continue;
      for (size_t i = 0; i < repetitions; ++i) {
        const GpuEntry::Sample& s = e.samples[i];
        const GpuTask task{.kind = e.kind, .flops = s.flops, .bytes = s.bytes, .format = e.format};
        const Duration ideal = ideal_time(task, calibration_.peaks);
        // At the median's work, so that rows do not count as spread.
        sums[i] += ideal > Duration() ? s.time / ideal / entry_factor(e) * seconds(e) : 0;
      }
    }
    // Nothing but gaps tells no spread.
    const bool told = std::all_of(sums.begin(), sums.end(), [](double s) { return s > 0; });
    double mean = 0;
    if (!told) sums.assign(repetitions, 1);
    for (const double s : sums) mean += std::log(s) / static_cast<double>(repetitions);
    double squares = 0;
    for (const double s : sums) squares += (std::log(s) - mean) * (std::log(s) - mean);
    repetition_spread_ = std::sqrt(squares / static_cast<double>(repetitions - 1));
  }
  // Every product told from the others.
  double squares = 0;
  int64_t count = 0;
  for (const Factor& f : products_) {
    const GpuEntry& e = *f.entry;
    if (e.m == 0 || !e.op) continue;
    const GpuTask task{
        .family = e.family, .format = e.format, .groups = e.groups, .m = e.m, .n = e.n, .k = e.k};
    bool exact = false;
    const double told = product_factor(OpKind::kCell, Pass::kNone, task, &f, &exact);
    if (told <= 0) continue;
    squares += std::log(told / f.beside) * std::log(told / f.beside);
    ++count;
  }
  if (count > 0) transfer_error_ = std::sqrt(squares / static_cast<double>(count));
}

double GpuCosts::product_factor(
    OpKind op, Pass pass, const GpuTask& task, const Factor* without, bool* exact) const {
  const auto of_op = [&](const GpuEntry& e) { return e.op && *e.op == std::pair(op, pass); };
  // All of the op's products together.
  for (const Factor& f : products_) {
    if (f.entry->m == 0 && of_op(*f.entry)) {
      *exact = f.entry->format == task.format;
      return f.beside;
    }
  }
  const auto fallback = [](Family f) -> std::optional<Family> {
    if (f == Family::kGroupedWeight) return Family::kWeight;
    if (f == Family::kGrouped || f == Family::kWeight) return Family::kDense;
    return std::nullopt;
  };
  // Its shape but for the rows: the op's own first, then what was measured beside communication.
  const Factor* best = nullptr;
  for (const Factor& f : products_) {
    const GpuEntry& e = *f.entry;
    if (&f == without || e.family != task.family || e.m == 0 || e.n != task.n || e.k != task.k ||
        e.groups != task.groups || e.m >= kSameRows * task.m || task.m >= kSameRows * e.m) {
      continue;
    }
    const auto rank = [&](const GpuEntry& x) { return (of_op(x) ? 2 : 0) + (x.beside ? 1 : 0); };
    if (best == nullptr || rank(e) > rank(*best->entry)) best = &f;
  }
  if (best != nullptr) {
    *exact = best->entry->beside && best->entry->format == task.format;
    return best->beside;
  }
  for (std::optional<Family> family = task.family; family; family = fallback(*family)) {
    double weights = 0;
    double sum = 0;
    for (const Factor& f : products_) {
      const GpuEntry& e = *f.entry;
      if (&f == without || e.family != *family) continue;
      double distance = kNoShape;
      if (e.m > 0) {
        const auto term = [](int64_t x, int64_t y) {
          const double d = std::log(static_cast<double>(x) / static_cast<double>(y));
          return d * d;
        };
        distance = term(std::max<int64_t>(1, e.m / e.groups),
                        std::max<int64_t>(1, task.m / std::max<int64_t>(1, task.groups))) +
                   term(e.n, task.n) + term(e.k, task.k);
      }
      const double weight = (e.beside ? kBesideOverAlone : 1) / (kNear + distance);
      weights += weight;
      sum += weight * std::log(f.beside);
    }
    if (weights > 0) return std::exp(sum / weights);
  }
  return 0;
}

double GpuCosts::memory_factor(OpKind op, Pass pass, WorkKind kind, bool* exact) const {
  const auto pooled = [&](auto use) {
    double measured = 0;
    double ideal = 0;
    for (const GpuEntry& e : calibration_.entries) {
      if (!use(e)) continue;
      // Beside communication, whichever way it was measured.
      const double t = seconds(e) / (e.beside ? 1 : reference_memory_);
      measured += t;
      ideal += seconds(e) / entry_factor(e);
    }
    return ideal > 0 ? measured / ideal : 0;
  };
  const double own = pooled(
      [&](const GpuEntry& e) { return e.kind == kind && e.op && *e.op == std::pair(op, pass); });
  if (own > 0) {
    *exact = true;
    return own;
  }
  const WorkKind like = kind == WorkKind::kStream ? WorkKind::kPermute : kind;
  // Small kernels of all sorts have no rate of their own.
  const double of_kind = like == WorkKind::kElementwise ? 0 : pooled([&](const GpuEntry& e) {
    return e.kind == like && is_compute(e);
  });
  if (of_kind > 0) return of_kind;
  return pooled([&](const GpuEntry& e) { return is_memory_bound(e.kind) && is_compute(e); });
}

double GpuCosts::attention_factor(OpKind op, Pass pass, bool* exact) const {
  double sum = 0;
  int64_t count = 0;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kAttention) continue;
    const double factor = entry_factor(e) * (e.beside ? 1 : reference_share_ * contention_);
    if (e.op && *e.op == std::pair(op, pass)) {
      *exact = e.beside;
      return factor;
    }
    sum += factor;
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

GpuCosts::Time GpuCosts::time(OpKind op, Pass pass, const GpuTask& task) const {
  const Duration ideal = ideal_time(task, peaks_);
  Time t;
  if (task.kind == WorkKind::kProduct) {
    bool exact = false;
    const double factor = product_factor(op, pass, task, nullptr, &exact);
    t.known = factor > 0;
    const double alone = t.known ? factor / (reference_share_ * contention_) : 1;
    t.alone = ideal.scaled(alone * launch_share_);
    t.beside = t.between = ideal.scaled(alone * share_ * contention_);
    if (exact && same_device_) t.measured = t.beside;
    return t;
  }
  const OtherFactor& other = other_factors_[op_index(op, pass)][static_cast<size_t>(task.kind)];
  t.alone = ideal.scaled(other.alone);
  const bool attention = task.kind == WorkKind::kAttention;
  t.beside = ideal.scaled(attention ? other.alone * share_ * contention_ : other.alone / memory_);
  t.between = attention ? t.beside : t.alone;
  t.known = other.known;
  if (other.exact && same_device_) t.measured = t.beside;
  return t;
}

void GpuCosts::find_other_factors() {
  other_factors_.assign(kOpKinds * kPasses, std::vector<OtherFactor>(kWorkKinds));
  for (size_t op = 0; op < kOpKinds; ++op) {
    for (size_t pass = 0; pass < kPasses; ++pass) {
      for (const WorkKind k : work_kinds()) {
        if (!is_task(k) || k == WorkKind::kProduct) continue;
        const auto o = static_cast<OpKind>(op);
        const auto p = static_cast<Pass>(pass);
        OtherFactor& f = other_factors_[op_index(o, p)][static_cast<size_t>(k)];
        const bool attention = k == WorkKind::kAttention;
        const double beside =
            attention ? attention_factor(o, p, &f.exact) : memory_factor(o, p, k, &f.exact);
        if (beside <= 0) continue;
        f.known = true;
        f.alone =
            attention ? beside / (reference_share_ * contention_) : beside * reference_memory_;
      }
    }
  }
}

GpuCosts::Time GpuCosts::time(OpKind op, Pass pass, std::span<const GpuTask> tasks) const {
  Time sum;
  for (const GpuTask& task : tasks) {
    const Time t = time(op, pass, task);
    sum.alone += t.alone;
    sum.beside += t.beside;
    sum.between += t.between;
    sum.measured += t.measured;
  }
  if (tasks.empty()) return sum;
  if (const auto& gap = gaps_[op_index(op, pass)]) {
    sum.alone += *gap;
    sum.beside += *gap;
    sum.between += *gap;
    sum.measured += *gap;
  } else {
    sum.alone = sum.alone.scaled(1 + gap_share_);
    sum.beside = sum.beside.scaled(1 + gap_share_);
    sum.between = sum.between.scaled(1 + gap_share_);
  }
  return sum;
}

double GpuCosts::demand(const OpTasks& ops) const {
  double bytes = 0;
  Duration time_beside;
  for (const auto& [op, tasks] : ops) {
    for (const GpuTask& t : tasks) bytes += static_cast<double>(t.bytes.count());
    time_beside += time(op.first, op.second, tasks).beside;
  }
  if (time_beside == Duration()) return 0;
  return bytes / time_beside.seconds() / peaks_.memory.value();
}

double GpuCosts::copy_slowdown(OpKind op, Pass pass, double demand) const {
  double of_all = 0;
  int64_t count = 0;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kData || !e.beside || e.demand <= 0) continue;
    std::vector<double> slower;
    for (const GpuEntry::Sample& s : e.samples) {
      slower.push_back(s.time.seconds() * calibration_.copy.value() /
                       static_cast<double>(s.bytes.count()));
    }
    const double slope = std::max(0.0, median(slower) - 1) / queueing(e.demand);
    if (e.op && *e.op == std::pair(op, pass)) return 1 + slope * queueing(demand);
    of_all += slope;
    ++count;
  }
  return count > 0 ? 1 + of_all / static_cast<double>(count) * queueing(demand) : 1;
}

}  // namespace rehearse
