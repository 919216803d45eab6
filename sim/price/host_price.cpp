// Prices of ops on cores, and on emulated devices.

#include <algorithm>
#include <cmath>

#include "sim/price/estimate.h"
#include "sim/price/price.h"

namespace rehearse {
namespace {

// Both run this project's kernels: an op costs the sum of its calls.
class ByCalls : public Price {
 public:
  explicit ByCalls(const OpWork& work) : work_(work) {}

  OpCost of(const PricedOp& op, CostSources& sources) const override {
    const OpCalls calls = work_.calls(op.op, op.load);
    OpCost cost;
    cost.pack = sum(calls.pack, &sources);
    cost.forward = sum(calls.forward, &sources);
    cost.work = sum(calls.work, &sources);
    return cost;
  }
  LocalCost work(const PricedOp& op) const override {
    return sum(work_.calls(op.op, op.load).work, nullptr);
  }

 protected:
  virtual LocalCost sum(const std::vector<KernelCall>& calls, CostSources* sources) const = 0;

 private:
  const OpWork& work_;
};

class HostPrice : public ByCalls {
 public:
  HostPrice(const Plan& plan,
            const OpWork& work,
            Calibration calibration,
            const CostVariation& variation)
      : ByCalls(work), plan_(plan), calibration_(std::move(calibration)), variation_(variation) {}

  Overheads overheads() const override { return calibration_.overheads; }

 protected:
  LocalCost sum(const std::vector<KernelCall>& calls, CostSources* sources) const override {
    LocalCost cost;
    double pressure = 0;
    for (const KernelCall& call : calls) {
      const auto found = estimate(calibration_, call);
      if (!found) {
        if (sources != nullptr) {
          ++sources->roofline;
          sources->unmeasured.insert(to_string(call));
        }
        cost.alone += roofline(plan_, call);
        continue;
      }
      if (sources != nullptr) ++(found->measured ? sources->measured : sources->interpolated);
      const KernelTime& time = found->time;
      const double seconds = time.mean.seconds() * variation_of(call, found->measured);
      cost.alone += Duration::seconds(seconds);
      // cores runs at once, each slowed to busy: each takes busy / (cores x alone) of what they
      // share.
      const auto cores = static_cast<double>(calibration_.cores);
      pressure += seconds * std::min(1.0, time.busy / time.alone / cores);
    }
    if (cost.alone > Duration()) cost.memory_weight = pressure / cost.alone.seconds();
    return cost;
  }

 private:
  double variation_of(const KernelCall& call, bool measured) const {
    if (measured || variation_.interpolated == 0) return variation_.common;
    return variation_.common * std::exp(variation_.interpolated * normal_of(variation_.seed, call));
  }

  const Plan& plan_;
  Calibration calibration_;
  CostVariation variation_;
};

// An emulated device takes the stated time, unless the core that emulates it takes longer.
class EmulatedPrice : public HostPrice {
 public:
  EmulatedPrice(const Plan& plan,
                const OpWork& work,
                const Calibration& calibration,
                const CostVariation& variation)
      : HostPrice(plan, work, calibration, variation),
        plan_(plan),
        cores_(calibration.kernels.empty() ? 0 : calibration.cores) {}

  Overheads overheads() const override { return {}; }
  int64_t emulating_cores() const override { return cores_; }

 protected:
  LocalCost sum(const std::vector<KernelCall>& calls, CostSources* sources) const override {
    if (sources != nullptr) sources->stated += static_cast<int64_t>(calls.size());
    LocalCost cost = cores_ > 0 ? HostPrice::sum(calls, nullptr) : LocalCost{};
    cost.held = roofline(plan_, calls);
    return cost;
  }

 private:
  const Plan& plan_;
  int64_t cores_;
};

}  // namespace

std::unique_ptr<Price> host_price(const Plan& plan,
                                  const OpWork& work,
                                  const Calibration& calibration,
                                  const CostVariation& variation) {
  return std::make_unique<HostPrice>(plan, work, calibration, variation);
}
std::unique_ptr<Price> emulated_price(const Plan& plan,
                                      const OpWork& work,
                                      const Calibration& calibration,
                                      const CostVariation& variation) {
  return std::make_unique<EmulatedPrice>(plan, work, calibration, variation);
}

}  // namespace rehearse
