#include "plan/capabilities.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rehearse {

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> table = {
      {"schedule 1f1b",
       true,
       true,
       [](const Plan& p) { return p.layout.schedule == ScheduleKind::k1F1B; }},
      {"schedule interleaved-1f1b",
       true,
       false,
       [](const Plan& p) { return p.layout.schedule == ScheduleKind::kInterleaved; }},
      {"schedule zb1p",
       true,
       true,
       [](const Plan& p) { return p.layout.schedule == ScheduleKind::kZB1P; }},
      {"schedule dualpipe",
       true,
       true,
       [](const Plan& p) { return p.layout.schedule == ScheduleKind::kDualPipe; }},
      {"schedule dualpipev",
       true,
       false,
       [](const Plan& p) { return p.layout.schedule == ScheduleKind::kDualPipeV; }},
      {"data parallelism (dp > 1)", true, true, [](const Plan& p) { return p.layout.dp > 1; }},
      {"expert parallelism (ep > 1)", true, true, [](const Plan& p) { return p.layout.ep > 1; }},
      {"tensor parallelism (tp > 1)", false, false, [](const Plan& p) { return p.layout.tp > 1; }},
      {"context parallelism (context_parallel > 1)",
       true,
       false,
       [](const Plan& p) { return p.training.context_parallel > 1; }},
      {"zero_stage 0", true, true, [](const Plan& p) { return p.layout.zero_stage == 0; }},
      {"zero_stage 1", true, true, [](const Plan& p) { return p.layout.zero_stage == 1; }},
      {"precision fp32",
       true,
       true,
       [](const Plan& p) { return p.training.precision == Precision::kFp32; }},
      {"precision bf16",
       true,
       false,
       [](const Plan& p) { return p.training.precision == Precision::kBf16; }},
      {"precision fp8",
       true,
       false,
       [](const Plan& p) { return p.training.precision == Precision::kFp8; }},
      {"multi-token prediction (mtp_depth > 0)",
       true,
       false,
       [](const Plan& p) { return p.model.architecture.mtp_depth > 0; }},
      {"cluster of CPUs",
       true,
       true,
       [](const Plan& p) { return p.cluster.device == DeviceKind::kCpu; }},
      {"emulated cluster",
       true,
       true,
       [](const Plan& p) { return p.cluster.device == DeviceKind::kEmulated; }},
      {"cluster of GPUs",
       true,
       false,
       [](const Plan& p) { return p.cluster.device == DeviceKind::kGpu; }},
  };
  return table;
}

namespace {

void require(const Plan& plan, bool Capability::*able, std::string_view verb) {
  std::vector<std::string> missing;
  for (const Capability& c : capabilities()) {
    if (!(c.*able) && c.uses(plan)) missing.push_back(c.feature);
  }
  if (missing.empty()) return;
  throw InputError(fmt::format(
      "{}: this version cannot {} a plan with {}; `rehearse inspect --capabilities` lists what it "
      "can",
      plan.path,
      verb,
      fmt::join(missing, ", ")));
}

}  // namespace

void require_simulate(const Plan& plan) {
  require(plan, &Capability::simulate, "simulate");
}
void require_run(const Plan& plan) {
  require(plan, &Capability::run, "run");
}

}  // namespace rehearse
