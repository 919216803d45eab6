#include "sim/price/exchange_table.h"

#include <algorithm>
#include <cmath>

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
Duration ideal_exchange(const ExchangeCall& c) {
  constexpr double kStart = 15e-6, kLinks = 400e9;
  const double per_sm = c.dispatch ? 20e9 : 24e9;
  const double sms = 1 / (real(c.sms) * per_sm);
  const double links = 1 / kLinks;
  return Duration::seconds(kStart + bytes_of(c) * std::hypot(sms, links));
}

ShapePoint exchange_point(const ExchangeCall& c) {
  PointBuilder p;
  p.add(0.5, std::log2(real(c.tokens)));
  p.add(1, std::log2(real(c.hidden)));
  p.add(0.7, std::log2(real(c.top_k)));
  p.add(0.5, std::log2(real(c.experts)));
  p.add(2, std::log2(real(c.sms)));
  p.add(20, c.dispatch ? 1 : 0);
  return p.point();
}

}  // namespace

ExchangeTable::ExchangeTable(Rows rows)
    : NearestTable(std::move(rows),
                   {.ideal = ideal_exchange,
                    .point = exchange_point,
                    .family = [](const ExchangeCall& c) { return static_cast<uint64_t>(c.sms); }}) {
}

BytesPerSecond ExchangeTable::per_sm() const {
  constexpr int64_t kMany = 4096, kFew = 16;  // tokens; SMs that do not fill the links
  std::vector<double> rates;
  for (const auto& r : rows()) {
    if (r.call.tokens < kMany || r.call.sms > kFew) continue;
    rates.push_back(bytes_of(r.call) / r.time.seconds() / real(r.call.sms));
  }
  return BytesPerSecond(median(rates));
}

}  // namespace rehearse
