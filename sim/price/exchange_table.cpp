#include "sim/price/exchange_table.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "base/statistics.h"

namespace rehearse {
namespace {

constexpr int64_t kRanks = 8;  // of the node that was measured

double real(int64_t x) {
  return static_cast<double>(x);
}

// Bytes that a rank sends to ranks, itself among them: a token goes to each rank that holds one of
// its experts, of which uniform choices meet 8 (1 - C(e - e/8, k) / C(e, k)).
double bytes_of(const ExchangeCall& c) {
  double none = 1;  // of a rank's experts is chosen
  for (int64_t i = 0; i < c.top_k; ++i) {
    none *= std::max(0.0, real(c.experts - c.experts / kRanks - i)) / real(c.experts - i);
  }
  const double ranks = real(kRanks) * (1 - none);
  const double of_token = c.dispatch ? real(c.hidden) * (1 + 4.0 / 128) : 2 * real(c.hidden);
  return real(c.tokens) * ranks * of_token;
}

// A start, and bytes at what the SMs copy and the links carry: near where both are equal neither is
// reached.
Duration ideal(const ExchangeCall& c) {
  constexpr double kStart = 15e-6, kLinks = 400e9;
  const double per_sm = c.dispatch ? 20e9 : 24e9;
  const double sms = 1 / (real(c.sms) * per_sm);
  const double links = 1 / kLinks;
  return Duration::seconds(kStart + bytes_of(c) * std::hypot(sms, links));
}

ShapePoint point(const ExchangeCall& c) {
  ShapePoint p{};
  size_t i = 0;
  const auto add = [&](double weight, double value) {
    p[i++] = static_cast<float>(weight * value);
  };
  add(0.5, std::log2(real(c.tokens)));
  add(1, std::log2(real(c.hidden)));
  add(0.7, std::log2(real(c.top_k)));
  add(0.5, std::log2(real(c.experts)));
  add(2, std::log2(real(c.sms)));
  add(20, c.dispatch ? 1 : 0);
  return p;
}

}  // namespace

ExchangeTable::ExchangeTable(std::vector<MeasuredExchange> rows) : rows_(std::move(rows)) {
  CHECK(!rows_.empty()) << "a table of no exchanges";
  for (const MeasuredExchange& r : rows_) factors_.add(point(r.call), r.time / ideal(r.call));
}

Duration ExchangeTable::time(const ExchangeCall& call) const {
  return Duration::seconds(ideal(call).seconds() * factors_.told(point(call)));
}

BytesPerSecond ExchangeTable::per_sm() const {
  constexpr int64_t kMany = 4096, kFew = 16;  // tokens; SMs that do not fill the links
  std::vector<double> rates;
  for (const MeasuredExchange& r : rows_) {
    if (r.call.tokens < kMany || r.call.sms > kFew) continue;
    rates.push_back(bytes_of(r.call) / r.time.seconds() / real(r.call.sms));
  }
  return BytesPerSecond(rates.empty() ? 0 : median(rates));
}

TableErrors ExchangeTable::judge(bool dispatch, Duration shortest) const {
  std::vector<JudgedRow> judged;
  for (const MeasuredExchange& r : rows_) {
    judged.push_back(
        {static_cast<uint64_t>(r.call.sms), r.call.dispatch == dispatch ? r.time : Duration()});
  }
  // Each number of SMs by itself.
  constexpr uint64_t kFolds = 1009;
  return leave_out_families(
      judged,
      shortest,
      [&](size_t i, const NearestFactors::LeftOut& left_out) {
        const ExchangeCall& c = rows_[i].call;
        return Duration::seconds(ideal(c).seconds() * factors_.told(point(c), left_out));
      },
      kFolds);
}

TableErrors ExchangeTable::judge(bool dispatch,
                                 Duration shortest,
                                 const std::vector<MeasuredExchange>& rows) const {
  std::vector<double> errors;
  for (const MeasuredExchange& r : rows) {
    if (r.call.dispatch == dispatch && r.time >= shortest) {
      errors.push_back(time(r.call) / r.time - 1);
    }
  }
  return errors_of(std::move(errors));
}

}  // namespace rehearse
