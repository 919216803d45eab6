#include "search/sensitivity.h"

#include <cmath>

#include <fmt/format.h>

#include "base/errors.h"
#include "plan/legal.h"
#include "sim/expert_load.h"
#include "sim/price/what_if.h"

namespace rehearse {
namespace {

constexpr double kTurn = 1.1;

// `calibration` on which work of `kinds` takes `factor` times as long; nothing without a
// calibration.
std::optional<Calibration> slower(const std::optional<Calibration>& calibration,
                                  const std::vector<WorkKind>& kinds,
                                  double factor) {
  if (!calibration || !calibration->of_gpus()) return std::nullopt;
  Calibration c = *calibration;
  for (const WorkKind kind : kinds) {
    if (c.device) {
      c.device = scaled(*c.device, kind, factor);
    } else {
      c.gpu = std::make_shared<const GpuCalibration>(scaled(*c.gpu, kind, factor));
    }
  }
  return c;
}

std::vector<WorkKind> memory_bound() {
  std::vector<WorkKind> kinds;
  for (const WorkKind kind : work_kinds()) {
    if (is_memory_bound(kind)) kinds.push_back(kind);
  }
  return kinds;
}

Screened screened_of(const Plan& plan) {
  return {.candidate = candidate_of(plan)};
}

// Rows of the fullest rank's experts over the mean.
double imbalance_of(const Plan& plan) {
  const GroupLoad load =
      ExpertLoad(plan).of(static_cast<int32_t>(plan.model.architecture.first_moe_layer()), 0, 0);
  double most = 0;
  double sum = 0;
  for (const MemberLoad& m : load.members) {
    double rows = 0;
    for (const int64_t r : m.expert_rows) rows += static_cast<double>(r);
    most = std::max(most, rows);
    sum += rows;
  }
  return most / (sum / static_cast<double>(load.members.size()));
}

}  // namespace

double step_of(const Plan& plan, const std::optional<Calibration>& calibration) {
  return score(plan, calibration, screened_of(plan), Objective::kTime).step;
}

std::vector<Sensitivity> sensitivities(const Plan& plan,
                                       const std::optional<Calibration>& calibration) {
  std::vector<Sensitivity> all;
  const double step = step_of(plan, calibration);
  const auto slope = [&](double other, double turn) {
    return std::log(other / step) / std::log(turn);
  };
  const auto turned = [&](const char* knob, bool there, auto&& turn) {
    if (!there) {
      all.push_back({knob, std::nullopt, "the cluster has none"});
      return;
    }
    Plan other = plan;
    turn(other);
    all.push_back({knob, slope(step_of(other, calibration), kTurn), "a tenth more"});
  };
  // Less, not more: NICs that carry more than the cables behind them would have these be
  // bottlenecks, which no layout folds over.
  if (plan.cluster.network) {
    Plan other = plan;
    BytesPerSecond& rate = other.cluster.network->bandwidth;
    rate = BytesPerSecond(rate.value() / kTurn);
    all.push_back(
        {"network bandwidth", slope(step_of(other, calibration), 1 / kTurn), "a tenth less"});
  } else {
    all.push_back({"network bandwidth", std::nullopt, "the cluster has none"});
  }
  turned("NVLink bandwidth", plan.cluster.node_link.has_value(), [](Plan& p) {
    p.cluster.node_link->bandwidth = BytesPerSecond(p.cluster.node_link->bandwidth.value() * kTurn);
  });
  turned("latency", plan.cluster.linked(), [](Plan& p) {
    if (p.cluster.network) p.cluster.network->latency = p.cluster.network->latency.scaled(kTurn);
    if (p.cluster.node_link)
      p.cluster.node_link->latency = p.cluster.node_link->latency.scaled(kTurn);
  });
  if (plan.cluster.of_gpus() && plan.layout.ep > 1) {
    Plan other = plan;
    int64_t& sms = other.cluster.communication_sms;
    const auto before = static_cast<double>(sms);
    sms = std::llround(before * kTurn);
    const double turn = static_cast<double>(sms) / before;
    all.push_back(
        {"communication SMs",
         turn > 1 ? std::optional(slope(step_of(other, calibration), turn)) : std::nullopt,
         fmt::format("{} instead of {}", sms, plan.cluster.communication_sms)});
  } else {
    all.push_back({"communication SMs", std::nullopt, "no all-to-alls on GPUs"});
  }
  const auto work = [&](const char* knob, const std::vector<WorkKind>& kinds) {
    const auto other = slower(calibration, kinds, 1 / kTurn);
    if (!other) {
      all.push_back({knob, std::nullopt, "no calibration of GPUs"});
    } else {
      all.push_back({knob, slope(step_of(plan, other), kTurn), "a tenth faster"});
    }
  };
  work("products", {WorkKind::kProduct});
  work("attention", {WorkKind::kAttention});
  work("memory bandwidth", memory_bound());
  // An EP group whose experts are unequally popular, by the formulas of the screen: to simulate it
  // takes every rank.
  if (plan.layout.ep > 1 && plan.cluster.of_gpus() && plan.expert_load.balanced()) {
    Plan other = plan;
    other.expert_load = {.synthetic = true, .skew = 0.3};
    const Screened s = screened_of(plan);
    const auto told = [&](const Plan& p) {
      Estimator estimator(p, calibration);
      estimator.begin_block(s.candidate);
      return estimator.estimate(s.candidate).step;
    };
    const double load = imbalance_of(other);
    all.push_back({"balance (fullest rank over mean)",
                   std::log(told(other) / told(plan)) / std::log(load),
                   fmt::format("{:.2f} instead of 1, by formulas", load)});
  } else {
    all.push_back(
        {"balance (fullest rank over mean)", std::nullopt, "no experts over several ranks"});
  }
  {
    Plan other = plan;
    Training& t = other.training;
    const bool halves = t.micro_batches % 2 == 0;
    if (halves) {
      t.micro_batches /= 2;
      t.micro_batch_size *= 2;
    }
    if (halves && why_not(other).empty()) {
      all.push_back({"micro-batch size",
                     slope(step_of(other, calibration), 2),
                     fmt::format("{} x {} instead of {} x {}",
                                 t.micro_batches,
                                 t.micro_batch_size,
                                 plan.training.micro_batches,
                                 plan.training.micro_batch_size)});
    } else {
      all.push_back({"micro-batch size", std::nullopt, "twice as large is not legal"});
    }
  }
  {
    // One replica: the others wait for it at the step's end alone.
    Plan one = plan;
    const Layout& l = plan.layout;
    one.layout.dp = std::max<int64_t>(1, l.island() / (l.tp * l.cp));
    // And of few micro-batches, since every rank is simulated.
    one.training.micro_batches = std::min(plan.training.micro_batches, 4 * l.pp);
    const int64_t ops =
        one.training.micro_batches * one.model.architecture.layers * 12 * one.layout.stage_ranks();
    constexpr int64_t kMost = 4'000'000;
    if (!plan.cluster.of_gpus() || ops > kMost || !why_not(one).empty()) {
      all.push_back({"one slow device", std::nullopt, "would take long to simulate"});
    } else {
      // Of the pipeline's busiest rank, which the others wait for already.
      const Prediction as_is =
          simulate(one, build_program(one), calibration, {.keep = Keep::kSummary, .fold = true});
      int64_t busiest = 0;
      const auto bubble = [&](int64_t pp_rank) {
        return as_is.summary.ranks[static_cast<size_t>(one.layout.rank_of(pp_rank, 0))].bubble;
      };
      for (int64_t r = 1; r < l.pp; ++r) {
        if (bubble(r) < bubble(busiest)) busiest = r;
      }
      one.cluster.slow_devices[one.layout.rank_of(busiest, 0)] = 1 / kTurn;
      all.push_back(
          {"one slow device",
           std::log(step_of(one, calibration) / as_is.summary.step.seconds()) / std::log(kTurn),
           fmt::format("a tenth slower, on pipeline rank {}, of {} micro-batches",
                       busiest,
                       one.training.micro_batches)});
    }
  }
  return all;
}

std::vector<WhatIf> what_ifs(const Plan& plan, const std::optional<Calibration>& calibration) {
  std::vector<WhatIf> all;
  if (!plan.cluster.of_gpus()) return all;
  if (plan.layout.ep > 1) {
    Plan off = plan;
    off.cluster.communication_sms = 0;
    off.cluster.copy_per_sm.reset();
    all.push_back({"communication off the SMs", step_of(off, calibration)});
  }
  if (plan.training.precision == Precision::kFp8) {
    constexpr double kNext = 1e-3;  // to nothing
    if (const auto other = slower(calibration, {WorkKind::kCast}, kNext)) {
      all.push_back({"scaling inside the tensor cores (no casts)", step_of(plan, other)});
    }
  }
  return all;
}

std::vector<PartDifference> compare_steps(const Plan& a,
                                          const Plan& b,
                                          const std::optional<Calibration>& of_a,
                                          const std::optional<Calibration>& of_b) {
  const auto parts = [](const Plan& plan, const std::optional<Calibration>& calibration) {
    const Scored s = score(plan, calibration, screened_of(plan), Objective::kTime);
    const double busy = s.step * (1 - s.bubble - s.exposed - s.exposed_shared - s.optimizer);
    return std::vector<std::pair<std::string, double>>{
        {"step", s.step},
        {"computation", busy},
        {"bubble", s.bubble * s.step},
        {"exposed all-to-alls", s.exposed * s.step},
        {"exposed gathers", s.exposed_shared * s.step},
        {"step's end", s.optimizer * s.step}};
  };
  const auto first = parts(a, of_a);
  const auto second = parts(b, of_b);
  std::vector<PartDifference> all;
  for (size_t i = 0; i < first.size(); ++i) {
    all.push_back({first[i].first, first[i].second, second[i].second});
  }
  return all;
}

}  // namespace rehearse
