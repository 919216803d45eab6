// Prices of ops on GPUs.

#include <cmath>

#include <fmt/format.h>

#include "plan/program/beside.h"
#include "sim/price/copied.h"
#include "sim/price/gpu_costs.h"
#include "sim/price/price.h"

namespace rehearse {
namespace {

class GpuPrice : public Price {
 public:
  GpuPrice(const Plan& plan,
           const OpWork& work,
           const GpuCalibration& calibration,
           const CostVariation& variation)
      : work_(work),
        costs_(calibration,
               plan.cluster,
               shares_sms(plan) ? GpuCosts::Launch::kSmsLeft : GpuCosts::Launch::kAllSms,
               memory_left(plan, GpuCosts::copy_rate(calibration, plan.cluster))),
        variation_(variation) {}

  OpCost of(const PricedOp& op, CostSources& sources) const override {
    const std::vector<GpuTask> tasks = work_.tasks(op.op, op.load);
    for (const GpuTask& task : tasks) {
      const GpuCosts::Time t = costs_.time(op.op.kind, work_of(op.op.pass), task);
      if (!t.known) {
        ++sources.roofline;
        sources.unmeasured.insert(fmt::format("{} of {}", name_of(task.kind), to_string(op.op)));
      } else {
        ++(t.measured > Duration() ? sources.measured : sources.interpolated);
      }
    }
    OpCost cost;
    cost.work = price(op, tasks);
    if (is_all_to_all(op.op.kind)) price_exchange(op, cost);
    return cost;
  }

  LocalCost work(const PricedOp& op) const override {
    return price(op, work_.tasks(op.op, op.load));
  }

 private:
  LocalCost price(const PricedOp& op, const std::vector<GpuTask>& tasks) const {
    const GpuCosts::Time t = costs_.time(op.op.kind, work_of(op.op.pass), tasks);
    // What was not measured varies op by op, the rest with the device.
    double factor = variation_.common;
    if (variation_.interpolated > 0 && t.beside > Duration()) {
      const KernelCall name{
          .shape = {static_cast<int64_t>(op.op.kind), static_cast<int64_t>(op.op.pass)}};
      const double told = 1 - t.measured / t.beside;
      factor *= std::exp(told * variation_.interpolated * normal_of(variation_.seed, name));
    }
    return {.alone = (op.overlapped ? t.between : t.alone).scaled(factor),
            .beside = t.beside.scaled(factor)};
  }

  void price_exchange(const PricedOp& op, OpCost& cost) const {
    const OpName name{op.op.kind, work_of(op.op.pass)};
    const GpuCosts::Time t = costs_.time(name.first, name.second, work_.layer_tasks(name, op.load));
    cost.preparation = (op.overlapped ? t.beside : t.alone).scaled(variation_.common);
    if (!op.overlapped) return;
    const double demand = costs_.demand(tasks_beside(work_, name, op.load));
    cost.copy_slowdown = costs_.copy_slowdown(name.first, name.second, demand) * variation_.common;
  }

  const OpWork& work_;
  GpuCosts costs_;
  CostVariation variation_;
};

}  // namespace

std::unique_ptr<Price> gpu_price(const Plan& plan,
                                 const OpWork& work,
                                 const GpuCalibration& calibration,
                                 const CostVariation& variation) {
  return std::make_unique<GpuPrice>(plan, work, calibration, variation);
}

}  // namespace rehearse
