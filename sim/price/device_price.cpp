// Prices of ops on GPUs that tables of kernels and rules describe.

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "sim/price/copied.h"
#include "sim/price/device.h"
#include "sim/price/price.h"

namespace rehearse {
namespace {

class DevicePrice : public Price {
 public:
  DevicePrice(const Plan& plan,
              const OpWork& work,
              const DeviceModel& device,
              const CostVariation& variation)
      : work_(work), device_(device), variation_(variation) {
    const Cluster& c = plan.cluster;
    const auto sms = static_cast<double>(c.sms);
    sm_share_ = sms / std::max(1.0, sms - static_cast<double>(c.communication_sms));
    if (shares_sms(plan)) launched_ = sm_share_;
    if (c.node_link) node_link_ = c.node_link->bandwidth.value();
    if (c.copy_per_sm) {
      memory_left_ =
          memory_left(plan, c.copy_per_sm->value() * static_cast<double>(c.communication_sms));
    }
  }

  OpCost of(const PricedOp& op, CostSources& sources) const override {
    OpCost cost;
    const std::vector<GpuTask> tasks = work_.tasks(op.op, op.load);
    cost.work = price(op, tasks, &sources);
    if (!is_all_to_all(op.op.kind)) return cost;
    const LocalCost before =
        price(op, work_.layer_tasks({op.op.kind, work_of(op.op.pass)}, op.load), &sources);
    cost.preparation = op.overlapped ? before.beside : before.alone;
    cost.copy_slowdown = of_experts() * device_.rules().scaled(WorkKind::kData);
    return cost;
  }

  std::optional<Duration> on_node(CollectiveKind kind, int64_t ranks, Bytes size) const override {
    const auto& table = device_.tables().collectives;
    if (!table || ranks < 2 || ranks > table->most_ranks()) return std::nullopt;
    const CollectiveCall call{kind, ranks, size};
    const Duration measured = table->time(call);
    // The same device behind links that carry less, as an H800 is an H100: the rest as measured.
    const double sent = sent_bytes(call);
    const double slower = sent / node_link_ - sent / device_.facts().node_link.value();
    return (measured + Duration::seconds(std::max(0.0, slower))).scaled(variation_.common);
  }

  LocalCost work(const PricedOp& op) const override {
    return price(op, work_.tasks(op.op, op.load), nullptr);
  }

 private:
  LocalCost price(const PricedOp& op,
                  const std::vector<GpuTask>& tasks,
                  CostSources* sources) const {
    const Pass pass = work_of(op.op.pass);
    const DeviceRules& rules = device_.rules();
    Duration alone, beside, host;
    for (const GpuTask& task : tasks) {
      host += rules.host;
      if (task.groups > 1) host += rules.host_group * task.groups;
      const DeviceModel::Answer a = device_.time(op.op.kind, pass, task);
      const double factor = error_of(op, task, a.origin);
      const bool tensor = task.kind == WorkKind::kProduct || task.kind == WorkKind::kAttention;
      const double launched = task.kind == WorkKind::kProduct ? launched_ : 1;
      alone += a.time.scaled(factor * launched) + rules.gap;
      beside += a.time.scaled(factor * (tensor ? sm_share_ * rules.contention : 1 / memory_left_)) +
                rules.gap;
      if (sources == nullptr) continue;
      sources->seconds[static_cast<size_t>(a.origin)] += a.time.seconds();
      sources->pieces[{a.origin, piece_of(op, task, a.origin)}] += a.time.seconds();
      sources->kinds[task.kind] += a.time.seconds();
      if (a.origin == Origin::kMeasured) {
        ++sources->measured;
        continue;
      }
      const std::string name =
          fmt::format("{} of {}", name_of(task.kind), to_string(OpName{op.op.kind, pass}));
      sources->told[name] += a.time.seconds();
      ++(a.origin == Origin::kIdeal ? sources->roofline : sources->interpolated);
      if (a.origin == Origin::kIdeal) sources->unmeasured.insert(name);
    }
    if (variation_.interpolated > 0) {
      const KernelCall name{.shape = {-2}};
      host = host.scaled(
          std::exp(variation_.interpolated * rules.host_error * normal_of(variation_, name)));
    }
    const bool experts =
        is_all_to_all(op.op.kind) || std::ranges::any_of(tasks, [](const GpuTask& t) {
          return t.family == Family::kGrouped || t.family == Family::kGroupedWeight;
        });
    if (sources != nullptr) {
      if (experts) sources->experts += std::max(alone, host).seconds();
      if (host > alone) sources->host += (host - alone).seconds();
    }
    const double factor = variation_.common * (experts ? of_experts() : 1);
    return {.alone = std::max(alone, host).scaled(factor),
            .beside = std::max(beside, host).scaled(factor)};
  }

  // What all ops of experts and their tokens' way depart by together.
  double of_experts() const {
    if (variation_.interpolated == 0) return 1;
    const KernelCall name{.shape = {static_cast<int64_t>(WorkKind::kData)}};
    return std::exp(variation_.interpolated * device_.rules().experts *
                    normal_of(variation_, name));
  }

  // What this piece of work departs from what is told of it.
  double error_of(const PricedOp& op, const GpuTask& task, Origin origin) const {
    const double error = device_.rules().errors[static_cast<size_t>(origin)];
    if (variation_.interpolated == 0 || error == 0) return 1;
    return std::exp(variation_.interpolated * error *
                    normal_of(variation_, piece_of(op, task, origin)));
  }
  // What varies together: a rule is wrong wherever it is used.
  static KernelCall piece_of(const PricedOp& op, const GpuTask& task, Origin origin) {
    if (origin == Origin::kRuled) {
      return {.shape = {static_cast<int64_t>(task.family), -1, static_cast<int64_t>(task.kind)}};
    }
    return {.shape = {static_cast<int64_t>(op.op.kind),
                      static_cast<int64_t>(work_of(op.op.pass)),
                      static_cast<int64_t>(task.kind),
                      task.n}};
  }

  const OpWork& work_;
  const DeviceModel& device_;
  CostVariation variation_;
  double node_link_ = 1;    // bytes per second
  double sm_share_ = 1;     // SMs over those left beside communication
  double launched_ = 1;     // SMs over those that a product is launched for alone
  double memory_left_ = 1;  // beside communication
};

}  // namespace

std::unique_ptr<Price> device_price(const Plan& plan,
                                    const OpWork& work,
                                    const DeviceModel& device,
                                    const CostVariation& variation) {
  return std::make_unique<DevicePrice>(plan, work, device, variation);
}

}  // namespace rehearse
